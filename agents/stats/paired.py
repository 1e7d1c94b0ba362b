"""Two runs on the same problems: how much better is the second, and could that be luck?

Purpose: compare without the spread between problems, which is most of the spread on 30 of them. Each problem gives one
difference of averages. Contract: both runs hold the same problems with the same gold answers, or it is an error that
names them, unless they are known to be of one data set and one is not over yet; problems of which one run has no scored
sample are left out and named.

The interval is Student's over the differences, with ``2 / k`` problems mixed in of which a quarter each is won and lost
outright: for one sample per problem that is the adjusted interval of Agresti and Min (2005), and it fades as k grows.
The sign test is exact and asks less: are the differences more often of one sign?

Rewards, calls and tokens have no bounds to lean on: their intervals are Student's over the problems, as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from agents.stats.intervals import Interval, t_quantile
from agents.stats.samples import Sample
from retool_env.errors import UsageError

__all__ = ["Counts", "Means", "Paired", "ProblemPair", "difference_interval", "mean_interval", "pair_runs", "sign_test"]

_NAMED = 5
_TOKENS: Final = "sampled tokens"
_MEASURES: Final[Mapping[str, Callable[[Sample], float]]] = {
    "reward": lambda sample: math.nan if sample.reward is None else sample.reward,
    "tool calls": lambda sample: sample.num_tool_calls,
    _TOKENS: lambda sample: sample.num_action_tokens,
}


@dataclass(frozen=True, kw_only=True)
class ProblemPair:
    """One problem: share of right samples in either run, out of ``num_first`` and ``num_second``."""

    problem: str
    first: float
    second: float
    num_first: int
    num_second: int

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def flipped(self) -> bool:
        """Mostly right in one run and mostly not in the other."""
        return (self.first > 0.5) is not (self.second > 0.5)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One sample per problem in both runs, by who was right (McNemar's table)."""

    both: int
    only_first: int
    only_second: int
    neither: int


@dataclass(frozen=True, kw_only=True)
class Means:
    """What an episode of either run has of something, averaged over the samples of a problem and then over problems.

    Attributes:
        interval: 95 %, of the mean difference; ``None`` with one problem.
    """

    name: str
    first: float
    second: float
    interval: Interval | None

    def __str__(self) -> str:
        """The difference with its interval."""
        ends = f" [{self.interval.low:+.3f}, {self.interval.high:+.3f}]" if self.interval else ""
        return f"{self.second - self.first:+.3f}{ends}"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The comparison; differences are second minus first.

    Attributes:
        first: mean over problems of the first run's averages; ``second`` likewise.
        interval: 95 %, of the mean difference.
        num_better: problems that the second run solves more often; ``num_worse`` less often.
        sign_p: two-sided probability of a split at least as uneven, were both signs equally likely.
        counts: ``None`` unless both runs have one sample of every problem.
        means: of the reward where every episode has one, tool calls, and sampled tokens where both runs count alike.
        pairs: by problem, in the first run's order.
        left_out: problems without a scored sample in one of the runs.
        unplayed: number of problems that the first run, and the second, has not come to yet.
    """

    first: float
    second: float
    interval: Interval
    num_better: int
    num_worse: int
    sign_p: float
    counts: Counts | None
    means: tuple[Means, ...]
    pairs: tuple[ProblemPair, ...]
    left_out: tuple[str, ...]
    unplayed: tuple[int, int] = (0, 0)

    @property
    def difference(self) -> float:
        return self.second - self.first


def pair_runs(first: Sequence[Sample], second: Sequence[Sample], *, num_problems: int | None = None) -> Paired:
    """Compare two runs problem by problem.

    Args:
        num_problems: of the data set, where both are known to be of one; what a run does not hold it has not played
            yet, and those that both hold are compared.

    Raises:
        UsageError: they hold different problems, or share none that both have a scored sample of.
    """
    _check_problems(first, second, same=num_problems is not None)
    one, two = _by_problem(first), _by_problem(second)
    both = [name for name in one if name in two]
    pairs = tuple(
        ProblemPair(
            problem=name,
            first=fmean(one[name]),
            second=fmean(two[name]),
            num_first=len(one[name]),
            num_second=len(two[name]),
        )
        for name in both
        if one[name] and two[name]
    )
    if not pairs:
        raise UsageError("no problem has a scored sample in both runs; play the failed or missing episodes first")
    differences = [pair.difference for pair in pairs]
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Paired(
        first=fmean(pair.first for pair in pairs),
        second=fmean(pair.second for pair in pairs),
        interval=difference_interval(differences, k=min(min(p.num_first, p.num_second) for p in pairs)),
        num_better=better,
        num_worse=worse,
        sign_p=sign_test(better, worse),
        counts=_counts(pairs),
        means=_means(first, second, [pair.problem for pair in pairs]),
        pairs=pairs,
        left_out=tuple(name for name in both if not (one[name] and two[name])),
        unplayed=(0, 0) if num_problems is None else (num_problems - len(one), num_problems - len(two)),
    )


def difference_interval(differences: Sequence[float], *, k: int) -> Interval:
    """95 % interval of a mean of differences in [-1, 1], each of averages over ``k`` samples or more."""
    num = len(differences) + 2 / k
    mean = math.fsum(differences) / num
    variance = (math.fsum(d * d for d in differences) + 1 / k) / num - mean**2
    half = t_quantile(max(len(differences) - 1, 1)) * math.sqrt(variance / num)
    return Interval(max(-1.0, mean - half), min(1.0, mean + half))


def mean_interval(differences: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of a mean of two differences or more; ``None`` of fewer."""
    if len(differences) < 2:
        return None
    half = t_quantile(len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return Interval(fmean(differences) - half, fmean(differences) + half)


def sign_test(num_better: int, num_worse: int) -> float:
    """Exact two-sided sign test; problems without a difference say nothing. With k = 1 it is McNemar's exact test."""
    num, fewer = num_better + num_worse, min(num_better, num_worse)
    tail = sum(math.comb(num, count) for count in range(fewer + 1))
    return min(1.0, tail / (1 << num) * 2)


def _by_problem(
    samples: Sequence[Sample], value: Callable[[Sample], float] = lambda sample: sample.correct
) -> dict[str, list[float]]:
    """``value`` of the scored samples; a problem of which all failed is there, and empty."""
    groups: dict[str, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.problem, []).extend([] if sample.outcome.failed else [float(value(sample))])
    return groups


def _means(first: Sequence[Sample], second: Sequence[Sample], problems: Sequence[str]) -> tuple[Means, ...]:
    alike = len({sample.counted for sample in (*first, *second) if not sample.outcome.failed}) == 1
    found = []
    for name, value in _MEASURES.items():
        one, two = _by_problem(first, value), _by_problem(second, value)
        pairs = [(fmean(one[problem]), fmean(two[problem])) for problem in problems]
        a, b = (fmean(side) for side in zip(*pairs, strict=True))
        if not math.isnan(a + b) and (alike or name != _TOKENS):
            interval = mean_interval([y - x for x, y in pairs])
            found.append(Means(name=name, first=a, second=b, interval=interval))
    return tuple(found)


def _counts(pairs: Sequence[ProblemPair]) -> Counts | None:
    if any((pair.num_first, pair.num_second) != (1, 1) for pair in pairs):
        return None
    right = [(pair.first == 1, pair.second == 1) for pair in pairs]
    return Counts(
        both=right.count((True, True)),
        only_first=right.count((True, False)),
        only_second=right.count((False, True)),
        neither=right.count((False, False)),
    )


def _check_problems(first: Sequence[Sample], second: Sequence[Sample], *, same: bool) -> None:
    one, two = ({sample.problem: sample.gold for sample in samples} for samples in (first, second))
    found = [
        ("only in the first", [name for name in one if not same and name not in two]),
        ("only in the second", [name for name in two if not same and name not in one]),
        ("with another gold answer", [name for name in one if name in two and one[name] != two[name]]),
    ]
    if told := [f"{len(names)} {where}: {_some(names)}" for where, names in found if names]:
        raise UsageError(f"the runs are not over the same problems ({'; '.join(told)}); evaluate both on one data file")


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
