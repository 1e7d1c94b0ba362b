r"""Judge the answer of a response against a gold answer.

Purpose: the one source of truth for rewards. :func:`verify` finds the answer the response commits to
(:mod:`.extract`), brings both sides to one notation (:mod:`.latex`) and structure (:mod:`.shape`), compares them value
by value exactly where it can (:mod:`.exact`, :mod:`.compare`), and asks a computer algebra system in a killable
process (:mod:`.symbolic`) for the rest. A false positive is worse than a false negative: what is not understood is
wrong.

Contract: never raises for any text, is bounded in time (at most two seconds, aside from the start of the worker and the
queue for it), may be called from any thread, touches no signal handler, and imports no algebra library into the
caller's process. ``Verdict.reason`` is one of

* right: ``equal``;
* wrong value: ``different``, ``not_a_number`` (prose, variables or an unevaluated operator for a number as gold),
  ``list_for_scalar``, ``unparsable``;
* no answer: ``no_marker``, ``unclosed_box``, ``unclosed_think``, ``empty_answer``, ``template``, ``no_final_message``;
* refused for its size: ``too_long``, ``too_deep``, ``too_big``;
* the gold: ``empty_gold``;
* not the model's fault: ``timeout``, ``crash`` (the algebra killed its process), ``outage`` (there is no worker).

Left out: rewards (a function of the verdict), several golds, batches and asynchronous calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

from retool_env.verifier import symbolic
from retool_env.verifier.compare import EQUAL, Comparison
from retool_env.verifier.extract import Extracted, extract_answer
from retool_env.verifier.guards import shape_refused
from retool_env.verifier.latex import clean
from retool_env.verifier.shape import Node, parse
from retool_env.verifier.verdict import Verdict

__all__ = ["Extracted", "Verdict", "close", "extract_answer", "gradable", "verify"]

_ALGEBRA_SECONDS = 1.5


def verify(response: str | Sequence[Mapping[str, object]], gold: str) -> Verdict:
    """Judge a whole response (text, or messages of which only the last one counts) against the gold answer."""
    started = time.perf_counter()
    found = extract_answer(response)
    method, reason = _judge(found.answer, gold) if found.answer else ("none", found.reason)
    if not gold.strip():
        method, reason = "none", "empty_gold"
    return Verdict(
        correct=reason == EQUAL,
        answered=bool(found.answer),
        answer=found.answer,
        marker=found.marker,
        method=method,
        reason=reason,
        elapsed=time.perf_counter() - started,
    )


def gradable(gold: str) -> bool:
    """Whether the gold is one that an answer can meet at all: itself, in a box."""
    return bool(gold.strip()) and verify(f"\\boxed{{{gold}}}", gold).correct


def close() -> None:
    """End the worker process; it starts again when it is needed."""
    symbolic.close()


def _judge(answer: str, gold: str) -> tuple[str, str]:
    """Which method decided, and the reason."""
    reason = shape_refused(answer) or shape_refused(gold)
    if reason:
        return "none", reason
    pred, right = clean(answer), _clean_gold(gold)
    if not right:
        return "none", "empty_gold"
    if not pred:
        return "none", "empty_answer"
    comparison = Comparison(symbolic.ask, seconds=_ALGEBRA_SECONDS)
    reason = comparison.nodes(parse(pred), _gold_shape(right))
    if reason in ("timeout", "outage", "crash"):
        return "none", reason
    return "symbolic" if comparison.asked else "exact", reason


@lru_cache(maxsize=4096)
def _clean_gold(gold: str) -> str:
    return clean(gold)


@lru_cache(maxsize=4096)
def _gold_shape(gold: str) -> Node:
    return parse(gold)
