"""The input of the report: stages, their evaluations and their metrics, read into plain values.

``metrics.jsonl`` is read forgivingly, because a report on a broken run is worth having: a torn last line is ignored,
other unreadable lines are counted and the page says so, and of a step that was logged twice (a run that was resumed)
the later row counts. A value that is missing, or not finite, stays missing. Trajectories are read strictly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agents.stats import Summary, summarise
from retool_env.trajectory import Trajectory, read_trajectories

__all__ = [
    "MODES",
    "Metrics",
    "MetricsRow",
    "Point",
    "Stage",
    "StageData",
    "all_families",
    "load_stage",
    "read_metrics",
]

MODES = ("sampled", "greedy")
Phase = Literal["train", "eval"]
PHASES = ("train", "eval")
Point = tuple[int, float | None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: short, for charts.
        title: for headings and tables.
        description: a sentence or two.
        metrics: the ``metrics.jsonl``; ``None`` when the stage has none.
        evals: trajectory files by mode (``sampled``, ``greedy``).
    """

    name: str
    title: str
    description: str
    metrics: Path | None
    evals: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class MetricsRow:
    """The finite numbers of one line."""

    phase: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """All rows by step, and how many lines could not be read."""

    rows: tuple[MetricsRow, ...] = ()
    num_unreadable: int = 0

    def series(self, phase: Phase, key: str) -> tuple[Point, ...]:
        """A point for each row of the phase, ``None`` where the row has no such value; empty when no row has."""
        points = tuple((row.step, row.values.get(key)) for row in self.rows if row.phase == phase)
        return points if any(value is not None for _, value in points) else ()


@dataclass(frozen=True, kw_only=True)
class StageData:
    """A stage with its files read. ``metrics`` is ``None`` when there is no file; ``evals`` has the modes given."""

    stage: Stage
    metrics: Metrics | None
    evals: Mapping[str, tuple[Trajectory, ...]] = field(default_factory=dict)

    def summary(self, mode: str, families: Sequence[str] | None = None) -> Summary:
        """What an evaluation found in all families, or in some of them taken together."""
        episodes = self.evals.get(mode, ())
        return summarise([t for t in episodes if families is None or t.record.problem.family in families])[0]


def load_stage(stage: Stage) -> StageData:
    """Read a stage's files.

    Raises:
        UsageError: an evaluation file is missing or broken.
    """
    metrics = read_metrics(stage.metrics) if stage.metrics and stage.metrics.is_file() else None
    evals = {mode: tuple(read_trajectories(stage.evals[mode])) for mode in MODES if mode in stage.evals}
    return StageData(stage=stage, metrics=metrics, evals=evals)


def read_metrics(path: Path) -> Metrics:
    """All readable rows of a ``metrics.jsonl``; phases that no chart shows are left out."""
    *lines, torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    parsed = [_parse(line) for line in lines if line.strip()]
    last = _parse(torn)  # a complete line whose newline is missing counts, the beginning of one does not
    rows = [row for row in (*parsed, last) if row is not None]
    latest = {(row.phase, row.step): row for row in rows if row.phase in PHASES}
    ordered = sorted(latest.values(), key=lambda row: (row.step, row.phase))
    return Metrics(rows=tuple(ordered), num_unreadable=parsed.count(None))


def _parse(line: str) -> MetricsRow | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("phase", "train"), str):
        return None
    values = {key: float(value) for key, value in row.items() if _is_number(value)}
    if "step" not in values:
        return None
    return MetricsRow(phase=row.get("phase", "train"), step=int(values.pop("step")), values=values)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def all_families(stages: Sequence[StageData], easy: Sequence[str]) -> list[str]:
    """Every family that occurs, the easy ones first; the others in order of first appearance."""
    evaluated = [t.record.problem.family for data in stages for episodes in data.evals.values() for t in episodes]
    rows = [row for data in stages if data.metrics for row in data.metrics.rows]
    keys = [key.removeprefix("eval/") for row in rows for key in row.values]
    logged = [key.removeprefix("accuracy/") for key in keys if key.startswith("accuracy/")]
    found = [family for family in dict.fromkeys([*evaluated, *logged]) if family not in ("", "mean")]
    return [family for family in easy if family in found] + [family for family in found if family not in easy]
