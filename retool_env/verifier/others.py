r"""Verifiers by name: ours, others to compare with it, and a user's own.

Purpose: an accuracy is only as good as its verifier, so a stored run can be graded again by others
(``retool rescore``), an environment can ask one of them (``env.verifier``), and benchmarks have something to stand
beside.

* ``retool``: ours.
* ``math_verify``: math-verify with its defaults on the whole response, in our killable worker, as its own time limits
  need the main thread and its signals.
* ``boxed_exact``: string equality with the last ``\boxed{..}`` of the last hundred characters, as in verl's strict
  mode, which ReTool's recipe trains with.
* ``path/to/file.py``, ``package.module``, with ``:name`` for another function than ``verify``: a user's, from response
  and gold to a :class:`Verdict`, or to whether it is right.

Contract: as :func:`retool_env.verifier.verify`, with the reasons that apply. The other two are there to reproduce
somebody's numbers rather than to train with: they are easier to fool or refuse more right answers than ours
(``docs/verifier.md`` has the figures).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from retool_env.errors import UsageError, did_you_mean
from retool_env.modules import load_module, split_source
from retool_env.verifier.extract import extract_answer
from retool_env.verifier.judge import Response, Verifier, verify
from retool_env.verifier.pool import shared_pool
from retool_env.verifier.verdict import Verdict

__all__ = ["VERIFIERS", "load_verifier"]

_STRICT_CHARS = 100
_SECONDS = 5.0
Decision = tuple[bool, str, str]


def load_verifier(name: str) -> Verifier:
    """The verifier called ``name``.

    Raises:
        UsageError: no verifier has that name, or the file or module has no such function.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    location, function = split_source(name)
    if "." not in location:
        # A bare word is a misspelt name rather than a module.
        raise UsageError(f"no verifier {name!r}{did_you_mean(name, VERIFIERS)}")
    return _of_user(location, function or "verify")


def _of_user(location: str, name: str) -> Verifier:
    function = getattr(load_module(location, what="verifier"), name, None)
    if not callable(function):
        raise UsageError(
            f"verifier={location!r} has no function {name}; write {name}(response, gold), or give FILE:NAME"
        )

    def judge(response: Response, gold: str | Sequence[str]) -> Verdict:
        started = time.perf_counter()
        try:
            said = function(response, gold)
        except Exception as error:
            raise UsageError(f"verifier {location}:{name} raised {type(error).__name__}: {error}") from error
        if isinstance(said, Verdict):
            return said
        if not isinstance(said, bool):
            raise UsageError(f"verifier {location}:{name} returned {said!r}; return True, False or a Verdict")
        found, elapsed = extract_answer(response), time.perf_counter() - started
        reason = "equal" if said else "different" if found.answer else found.reason
        return Verdict(
            correct=said,
            answered=said or bool(found.answer),
            answer=found.answer,
            marker=found.marker,
            reason=reason,
            elapsed=elapsed,
        )

    return judge


def _boxed_exact(text: str, gold: str) -> Decision:
    tail = text[-_STRICT_CHARS:]
    start = tail.rfind("\\boxed{")
    depth = 0
    for index in range(max(start, 0), len(tail)):
        depth += (tail[index] == "{") - (tail[index] == "}")
        if start >= 0 and depth == 0 and tail[index] == "}":
            answer = tail[start + len("\\boxed{") : index]
            return answer == gold, answer, "equal" if answer == gold else "different"
    return False, "", "no_marker" if start < 0 else "unclosed_box"


def _math_verify(text: str, gold: str) -> Decision:
    reply = shared_pool().ask(text, gold, seconds=_SECONDS, plain=True)
    return reply.verdict == "equal", "", reply.verdict


def _verifier(decide: Callable[[str, str], Decision], method: str) -> Verifier:
    def judge(response: Response, gold: str | Sequence[str]) -> Verdict:
        started = time.perf_counter()
        golds = [gold] if isinstance(gold, str) else list(gold)
        decisions = [decide(_text(response), one) for one in golds]
        correct, answer, reason = next((one for one in decisions if one[0]), decisions[0])
        answered = reason in ("equal", "different")
        elapsed = time.perf_counter() - started
        return Verdict(correct=correct, answered=answered, answer=answer, method=method, reason=reason, elapsed=elapsed)

    return judge


def _text(response: str | Sequence[Mapping[str, object]]) -> str:
    if isinstance(response, str):
        return response
    return str(response[-1].get("content") or "") if response else ""


VERIFIERS: Mapping[str, Verifier] = {
    "retool": verify,
    "math_verify": _verifier(_math_verify, "symbolic"),
    "boxed_exact": _verifier(_boxed_exact, "exact"),
}
