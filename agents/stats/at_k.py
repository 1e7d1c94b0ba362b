"""What k samples of one problem would give, estimated from the n >= k there are.

Each number is the mean over all subsets of k of the n samples (without replacement), which is unbiased (Chen et al.
2021 for pass@k). Best, worst and pass are exact sums; the majority is a mean over random subsets, the same ones each
time, except for k = 1 and k = n, where it is exact. ``k > n`` is refused: nothing about 64 samples can be read off 32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from retool_env.errors import UsageError

__all__ = ["best_at_k", "majority_at_k", "pass_at_k", "worst_at_k"]

NUM_SUBSETS = 2000


def pass_at_k(num: int, num_correct: int, k: int) -> float:
    """Probability that one of ``k`` of ``num`` samples is right, when ``num_correct`` are.

    Raises:
        UsageError: ``k`` is not between 1 and ``num``.
    """
    _check(k, num)
    total = math.comb(num, k)
    return (total - math.comb(num - num_correct, k)) / total


def best_at_k(values: Sequence[float], k: int) -> float:
    """Expected largest of ``k`` of the values.

    Raises:
        UsageError: ``k`` is not between 1 and their number.
    """
    num = len(values)
    _check(k, num)
    total, below, parts = math.comb(num, k), 0, []
    # Equal values together, in whole numbers: of ones alone the sum is 1 and not almost 1.
    for value, count in sorted(Counter(values).items()):
        subsets = math.comb(below + count, k) - math.comb(below, k)  # those whose largest is this value
        parts.append(value * (subsets / total))
        below += count
    return math.fsum(parts)


def worst_at_k(values: Sequence[float], k: int) -> float:
    """Expected smallest of ``k`` of the values.

    Raises:
        UsageError: ``k`` is not between 1 and their number.
    """
    return -best_at_k([-value for value in values], k)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Probability that the most frequent answer of ``k`` samples is right.

    Answers that are right count as the same answer, however they are written; a tie goes to each of its answers
    equally often; ``None`` casts no vote, and without any vote the majority is wrong.

    Raises:
        UsageError: ``k`` is not between 1 and their number.
    """
    num = len(answers)
    _check(k, num)
    labels = [
        (1, "") if right else None if text is None else (0, text) for text, right in zip(answers, correct, strict=True)
    ]
    votes = Counter(label for label in labels if label is not None)
    kinds = sorted(votes)
    if k == 1 or len(kinds) <= 1:  # the majority is right where there is a vote, and it is for the right answer
        right_votes = sum(votes[kind] for kind in kinds if kind[0])
        return pass_at_k(num, right_votes, k)
    # A subset matters only by how many votes of each kind it has, so these are drawn, and not the subset.
    pile = [*(votes[kind] for kind in kinds), num - votes.total()]
    drawn = np.random.default_rng(k).multivariate_hypergeometric(pile, k, 1 if k == num else NUM_SUBSETS)
    counts = drawn[:, : len(kinds)]
    first = (counts == counts.max(axis=1, keepdims=True, initial=1)).astype(np.float64)
    right = np.array([kind[0] for kind in kinds], dtype=np.float64)
    return float(np.mean(first @ right / np.maximum(first.sum(axis=1), 1)))


def _check(k: int, num: int) -> None:
    if not 1 <= k <= num:
        raise UsageError(f"k={k} needs {k} scored samples of a problem, there are {num}; sample more or lower k")
