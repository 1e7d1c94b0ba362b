"""One response against one gold answer.

Purpose: the way from a response to a :class:`~retool_env.verifier.verdict.Verdict`, through the parts of this package.
Contract: see :mod:`retool_env.verifier`. All golds of a call share one time budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from retool_env.verifier.compare import EQUAL, FATAL, Comparison
from retool_env.verifier.extract import extract_answer
from retool_env.verifier.guards import shape_refused
from retool_env.verifier.latex import clean
from retool_env.verifier.pool import shared_pool
from retool_env.verifier.shape import Node, parse
from retool_env.verifier.verdict import Verdict

__all__ = ["Response", "Verifier", "gold_problem", "gradable", "verify"]

Response = str | Sequence[Mapping[str, object]]
Verifier = Callable[[Response, str | Sequence[str]], Verdict]
_ALGEBRA_SECONDS = 1.5


def verify(response: Response, gold: str | Sequence[str]) -> Verdict:
    r"""Judge a whole response against the gold answer.

    Args:
        response: text, or messages of which only the last one counts.
        gold: the right answer, or several of which any one is right.

    >>> verdict = verify(r"Half of it, so \boxed{\frac{1}{2}}.", "0.5")
    >>> verdict.correct, verdict.answer
    (True, '\\frac{1}{2}')
    >>> verify("It is 0.5, I think.", "0.5").reason
    'no_marker'
    """
    started = time.perf_counter()
    found = extract_answer(response)
    golds = [gold] if isinstance(gold, str) else list(gold)
    method, reason = _judge_any(found.answer, golds) if found.answer else ("none", found.reason)
    if not any(one.strip() for one in golds):
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


def gold_problem(gold: str | Sequence[str]) -> str:
    """Why no answer can meet the gold, not even itself in a box; ``""`` for a gold that can be graded.

    Of several golds each one must be gradable. The word is one of the reasons of a verdict.
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    problems = (_problem(one) for one in golds)
    return next((problem for problem in problems if problem), "") if golds else "empty_gold"


def gradable(gold: str | Sequence[str]) -> bool:
    """Whether an answer can meet the gold at all."""
    return not gold_problem(gold)


def _problem(gold: str) -> str:
    if not gold.strip():
        return "empty_gold"
    verdict = verify(f"\\boxed{{{gold}}}", gold)
    return "" if verdict.correct else verdict.reason


def _judge_any(answer: str, golds: Sequence[str]) -> tuple[str, str]:
    """Which method decided, and the reason: of the gold that was met, else of the first one."""
    comparison = Comparison(shared_pool().ask, seconds=_ALGEBRA_SECONDS)
    first: tuple[str, str] | None = None
    for gold in golds:
        method, reason = _judge(answer, gold, comparison)
        if reason == EQUAL:
            return method, reason
        first = first if first and reason not in FATAL else (method, reason)
    return first or ("none", "empty_gold")


def _judge(answer: str, gold: str, comparison: Comparison) -> tuple[str, str]:
    reason = shape_refused(answer) or shape_refused(gold)
    if reason:
        return "none", reason
    pred, right = clean(answer), _clean_gold(gold)
    if not right:
        return "none", "empty_gold"
    if not pred:
        return "none", "empty_answer"
    reason = comparison.nodes(parse(pred), _gold_shape(right))
    if reason in FATAL:
        return "none", reason
    return "symbolic" if comparison.asked else "exact", reason


@lru_cache(maxsize=4096)
def _clean_gold(gold: str) -> str:
    return clean(gold)


@lru_cache(maxsize=4096)
def _gold_shape(gold: str) -> Node:
    return parse(gold)
