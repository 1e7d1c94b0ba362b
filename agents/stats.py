"""Numbers of an evaluation, with intervals.

One sample per problem: the Wilson score interval of a proportion (Wilson 1927), which stays inside [0, 1] and does not
collapse at 0 and 1. Several samples per problem: samples of one problem are not independent, so the interval is a
normal one over the per-problem means (Wilson's over the problems when all means are equal, since a spread of 0 would
claim certainty). Episodes that infrastructure ended are left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from retool_env.trajectory import Trajectory

__all__ = ["Estimate", "Summary", "estimate", "summarise", "wilson"]

Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval. ``num`` is the number of samples; NaN everywhere when there are none."""

    mean: float
    low: float
    high: float
    num: int

    def __str__(self) -> str:
        return f"{100 * self.mean:5.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an evaluation found, for one family or for all (``family == ""``)."""

    family: str
    accuracy: Estimate
    tool_rate: Estimate
    num_tool_calls: float
    num_action_tokens: float
    num_failed: int


def wilson(successes: float, num: int) -> tuple[float, float]:
    """The 95 % Wilson interval of ``successes`` out of ``num > 0``."""
    mean = successes / num
    centre = mean + Z95**2 / (2 * num)
    spread = Z95 * math.sqrt(mean * (1 - mean) / num + Z95**2 / (4 * num**2))
    scale = 1 + Z95**2 / num
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def estimate(values_by_problem: Sequence[Sequence[float]]) -> Estimate:
    """Mean of 0/1 values, given by problem."""
    groups = [values for values in values_by_problem if values]
    num = sum(map(len, groups))
    if num == 0:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, num=0)
    means = [fmean(values) for values in groups]
    mean = fmean(means)
    if num == len(groups) or len(set(means)) == 1:
        low, high = wilson(sum(means), len(groups))
        return Estimate(mean=mean, low=low, high=high, num=num)
    half = Z95 * stdev(means) / math.sqrt(len(means))
    return Estimate(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), num=num)


def summarise(trajectories: Sequence[Trajectory]) -> list[Summary]:
    """All together first, then each family in order of first appearance."""
    families = list(dict.fromkeys(t.record.problem.family for t in trajectories))
    names = ["", *(family for family in families if family)]
    return [_summary(name, [t for t in trajectories if not name or t.record.problem.family == name]) for name in names]


def _summary(family: str, trajectories: Sequence[Trajectory]) -> Summary:
    counted = [t for t in trajectories if not t.record.outcome.failed]
    by_problem: dict[str, list[Trajectory]] = {}
    for trajectory in counted:
        by_problem.setdefault(trajectory.record.problem.id, []).append(trajectory)
    groups = list(by_problem.values())
    return Summary(
        family=family,
        accuracy=estimate([[float(t.record.correct) for t in group] for group in groups]),
        tool_rate=estimate([[float(t.record.num_tool_calls > 0) for t in group] for group in groups]),
        num_tool_calls=fmean([t.record.num_tool_calls for t in counted]) if counted else math.nan,
        num_action_tokens=fmean([t.record.num_action_tokens for t in counted]) if counted else math.nan,
        num_failed=len(trajectories) - len(counted),
    )
