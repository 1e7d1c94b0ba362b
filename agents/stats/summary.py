"""Accuracy and tool use of a list of episodes, overall and by family: what trainers log and the report shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agents.stats.intervals import Estimate, estimate
from retool_env.trajectory import Trajectory

__all__ = ["Summary", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What an evaluation found, for one family or for all (``family == ""``)."""

    family: str
    accuracy: Estimate
    tool_rate: Estimate
    num_tool_calls: float
    num_action_tokens: float
    num_failed: int


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
