"""Everything that is reported about one run on one data set.

Contract: :func:`statistics` takes the samples of a run and gives numbers about those that were scored. A problem of
which every sample failed is named and left out; a problem with fewer than k scored samples is left out of the numbers
at k and counted there. Numbers at k are means over problems of what ``at_k`` gives for one.
:func:`verl_metrics` gives the same numbers under the names that verl's validation logs use.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from agents.stats.at_k import best_at_k, majority_at_k, worst_at_k
from agents.stats.intervals import (
    Estimate,
    Interval,
    bootstrap_interval,
    clustered_error,
    estimate,
    estimate_means,
    normal_interval,
    repeat_error,
    t_interval,
)
from agents.stats.samples import Sample, in_one_unit
from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus

__all__ = ["AtK", "Spread", "Statistics", "statistics", "verl_metrics"]


@dataclass(frozen=True, kw_only=True)
class AtK:
    """What k samples give, over the problems that have k scored ones.

    Attributes:
        best: with right or wrong as the value, this is pass@k.
        worst: all of k are right.
        majority: maj@k.
        num_problems: the mean is over this many; ``num_left_out`` had fewer than k scored samples.
    """

    k: int
    best: Estimate
    worst: Estimate
    majority: Estimate
    num_problems: int
    num_left_out: int


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and extremes over samples; NaN without any."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """One run on one data set.

    Attributes:
        source: the data set; ``""`` when the problems have several or none.
        num_samples: k of mean@k, the most samples that a problem has.
        num_problems: with at least one scored sample.
        num_scored: samples behind every number below.
        failures: samples that infrastructure ended, by outcome; never scored.
        unscored_problems: of which every sample failed.
        accuracy: mean@k, with the interval to report.
        clustered_error: standard error of mean@k over problems.
        repeat_error: standard error of mean@k were the same problems sampled again; NaN for one sample each.
        cross_checks: the t, bootstrap and normal interval of mean@k.
        sample_std: mean over problems of the standard deviation between a problem's samples.
        reward: mean over problems of the mean reward; NaN when nothing is scored.
        at_k: for powers of two and for ``num_samples``.
        answered: share of samples with an answer.
        truncated: share of samples that a budget cut off.
        tool_use: share of samples with a call that reached a tool.
        outcomes: share of samples by how they ended.
        tool_error: share of tool calls that did not end well.
        calls: share of tool calls by how they ended; ``num_calls`` in all.
        errors: of the calls that raised, the share of each class of exceptions.
        turns: as verl counts them.
        tokens: sampled tokens of an episode, all counted alike (:func:`~agents.stats.samples.in_one_unit`).
        tokens_per_solved: all sampled tokens by right answers; infinite when there is none.
        seconds: wall time of an episode; a time field, as are the two below.
        seconds_per_solved: wall time of all episodes by right answers; many run at once, so it is no time on the clock.
        tool_seconds_per_solved: of these in tools.
    """

    source: str
    num_samples: int
    num_problems: int
    num_scored: int
    failures: Mapping[str, int]
    unscored_problems: tuple[str, ...]
    accuracy: Estimate
    clustered_error: float
    repeat_error: float
    cross_checks: Mapping[str, Interval]
    sample_std: float
    reward: float
    at_k: tuple[AtK, ...]
    answered: Estimate
    truncated: Estimate
    tool_use: Estimate
    tool_error: Estimate
    outcomes: Mapping[str, float]
    calls: Mapping[str, float]
    num_calls: int
    errors: Mapping[str, float]
    turns: Spread
    tokens: Spread
    tokens_per_solved: float
    seconds: Spread
    seconds_per_solved: float
    tool_seconds_per_solved: float

    @property
    def num_failed(self) -> int:
        return sum(self.failures.values())


Groups = Mapping[str, Sequence[Sample]]


def statistics(samples: Sequence[Sample], *, ks: Sequence[int] | None = None) -> Statistics:
    """The numbers of a run.

    Args:
        samples: one for each episode that is to count, see :func:`agents.stats.latest`.
        ks: for the numbers at k; powers of two up to the most samples of a problem, and that number, by default.

    Raises:
        UsageError: there are no samples, or one of ``ks`` is larger than the number of scored samples of any problem.
    """
    if not samples:
        raise UsageError("there are no episodes to compute statistics from; let the run finish some first")
    samples = in_one_unit(samples)
    groups = _by_problem(samples)
    scored = [sample for group in groups.values() for sample in group]
    means = [fmean(sample.correct for sample in group) for group in groups.values()]
    most = max(Counter(sample.problem for sample in samples).values())
    solved, sources = sum(sample.correct for sample in scored), {sample.source for sample in samples}
    return Statistics(
        source=sources.pop() if len(sources) == 1 else "",
        num_samples=most,
        num_problems=len(groups),
        num_scored=len(scored),
        failures=dict(Counter(str(sample.outcome) for sample in samples if sample.outcome.failed)),
        unscored_problems=tuple(dict.fromkeys(s.problem for s in samples if s.problem not in groups)),
        accuracy=estimate_means(means, num=len(scored)),
        clustered_error=clustered_error(means),
        repeat_error=repeat_error([[float(sample.correct) for sample in group] for group in groups.values()]),
        cross_checks={
            "t": t_interval(means),
            "bootstrap": bootstrap_interval(means),
            "normal": normal_interval(means),
        },
        sample_std=_mean(pstdev(sample.correct for sample in group) for group in groups.values()),
        reward=_mean(_mean(s.reward for s in group if s.reward is not None) for group in groups.values()),
        at_k=_all_k(groups, _powers(groups) if ks is None else ks),
        answered=_rate(groups, lambda sample: sample.answer is not None),
        truncated=_rate(groups, lambda sample: sample.outcome.truncated),
        tool_use=_rate(groups, lambda sample: sample.used_tool),
        tool_error=_tool_error(groups),
        outcomes=_shares(str(sample.outcome) for sample in scored),
        calls=_shares(str(status) for sample in scored for status in sample.statuses),
        num_calls=sum(len(sample.statuses) for sample in scored),
        errors=_shares(error for sample in scored for error in sample.errors),
        turns=_spread([sample.num_turns for sample in scored]),
        tokens=_spread([sample.num_action_tokens for sample in scored]),
        tokens_per_solved=_ratio(sum(sample.num_action_tokens for sample in scored), solved),
        seconds=_spread([sample.seconds for sample in scored]),
        seconds_per_solved=_ratio(sum(sample.seconds for sample in scored), solved),
        tool_seconds_per_solved=_ratio(sum(sample.tool_seconds for sample in scored), solved),
    )


def verl_metrics(found: Statistics) -> dict[str, float]:
    """The numbers under verl's names: ``val-core/SOURCE/acc/mean@K``; at smaller k, and for the rest, ``val-aux``."""
    source, most = found.source or "mixed", found.num_samples
    metrics = {
        f"val-core/{source}/acc/mean@{most}": found.accuracy.mean,
        f"val-aux/{source}/acc/std@{most}": found.sample_std,
        f"val-aux/{source}/reward/mean@{most}": found.reward,
    }
    for at in found.at_k:
        if at.k == 1:
            continue  # verl starts at 2
        core = "val-core" if at.k == most else "val-aux"
        metrics[f"{core}/{source}/acc/best@{at.k}/mean"] = at.best.mean
        metrics[f"val-aux/{source}/acc/worst@{at.k}/mean"] = at.worst.mean
        metrics[f"{core}/{source}/acc/maj@{at.k}/mean"] = at.majority.mean
    turns = {"min": found.turns.low, "max": found.turns.high, "mean": found.turns.mean}
    return metrics | {f"val-aux/num_turns/{name}": value for name, value in turns.items()}


def _by_problem(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if not sample.outcome.failed:
            groups.setdefault(sample.problem, []).append(sample)
    return groups


def _powers(groups: Groups) -> list[int]:
    most = max(map(len, groups.values()), default=0)
    powers = [2**exponent for exponent in range(most.bit_length())]
    return powers if not most or most == powers[-1] else [*powers, most]


def _all_k(groups: Groups, ks: Sequence[int]) -> tuple[AtK, ...]:
    most = max(map(len, groups.values()), default=0)
    if too_large := [k for k in ks if not 1 <= k <= most]:
        raise UsageError(f"k={too_large[0]}: no problem has that many scored samples, the most is {most}; lower k")
    return tuple(_at_k(groups, k) for k in ks)


def _at_k(groups: Groups, k: int) -> AtK:
    enough = [group for group in groups.values() if len(group) >= k]
    values = [[float(sample.correct) for sample in group] for group in enough]
    votes = [majority_at_k([s.answer for s in group], [s.correct for s in group], k) for group in enough]
    num = sum(map(len, enough))
    return AtK(
        k=k,
        best=estimate_means([best_at_k(row, k) for row in values], num=num),
        worst=estimate_means([worst_at_k(row, k) for row in values], num=num),
        majority=estimate_means(votes, num=num),
        num_problems=len(enough),
        num_left_out=len(groups) - len(enough),
    )


def _rate(groups: Groups, holds: Callable[[Sample], bool]) -> Estimate:
    return estimate([[float(holds(sample)) for sample in group] for group in groups.values()])


def _tool_error(groups: Groups) -> Estimate:
    ok = [[status is ToolStatus.OK for sample in group for status in sample.statuses] for group in groups.values()]
    return estimate([[float(not well) for well in calls] for calls in ok])


def _shares(names: Iterable[str]) -> dict[str, float]:
    counts = Counter(names)
    return {name: count / counts.total() for name, count in counts.most_common()}


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(mean=math.nan, low=math.nan, high=math.nan)
    return Spread(mean=fmean(values), low=float(min(values)), high=float(max(values)))


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return fmean(finite) if finite else math.nan


def _ratio(total: float, num: int) -> float:
    return total / num if num else math.inf
