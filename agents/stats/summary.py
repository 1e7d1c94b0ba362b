"""Accuracy and tool use of a list of episodes, overall and by family: what trainers log and the report shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from agents.stats.intervals import Estimate, estimate
from agents.stats.samples import Sample, in_one_unit
from retool_env.trajectory import Trajectory

__all__ = ["Summary", "summarise", "summarise_samples"]


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
    return summarise_samples([Sample.of(trajectory) for trajectory in trajectories])


def summarise_samples(samples: Sequence[Sample]) -> list[Summary]:
    """The same, of what was kept of the episodes."""
    samples = in_one_unit(samples)
    families = list(dict.fromkeys(sample.family for sample in samples))
    names = ["", *(family for family in families if family)]
    return [_summary(name, [s for s in samples if not name or s.family == name]) for name in names]


def _summary(family: str, samples: Sequence[Sample]) -> Summary:
    counted = [sample for sample in samples if not sample.outcome.failed]
    by_problem: dict[str, list[Sample]] = {}
    for sample in counted:
        by_problem.setdefault(sample.problem, []).append(sample)
    groups = list(by_problem.values())
    return Summary(
        family=family,
        accuracy=estimate([[float(sample.correct) for sample in group] for group in groups]),
        tool_rate=estimate([[float(sample.used_tool) for sample in group] for group in groups]),
        num_tool_calls=fmean([sample.num_tool_calls for sample in counted]) if counted else math.nan,
        num_action_tokens=fmean([sample.num_action_tokens for sample in counted]) if counted else math.nan,
        num_failed=len(samples) - len(counted),
    )
