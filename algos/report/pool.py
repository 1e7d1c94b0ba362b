"""Cells of sweeps that differ in nothing but the seed, taken together.

The interval is Student's across seeds: mean ± t(n - 1) s / √n with s the standard deviation of the seeds' accuracies,
cut to [0, 1]. It says how far another set of seeds may come out on the same held-out problems, and it is wide for few
seeds because it has to be (t is 12.7 for two, 4.3 for three). With a single seed the interval is the one over problems,
which answers another question; the row then says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from agents.stats import Estimate
from agents.stats.intervals import t_interval
from algos.report.runs import NOTHING, RunNumbers, read_run
from retool_env.errors import UsageError
from retool_env.sweeps import CellRecord, read_cells, read_sweep

__all__ = ["Cell", "Pooled", "Spent", "pool", "read_sweeps"]

SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: where it lies, what is recorded about it, and what its run came to."""

    sweep: Path
    folder: Path
    record: CellRecord
    run: RunNumbers


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Mean time of a cell. ``complete`` is false when processes that were killed with their sweep are not in it."""

    seconds: float
    cpu_seconds: float
    complete: bool


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """All seeds of one combination.

    Attributes:
        label: the combination, without the seed.
        cells: of which ``finished`` are behind the numbers.
        accuracy: mean over seeds with its interval; ``num`` is the number of seeds.
        greedy: the same at temperature 0.
        tool_rate: mean over seeds.
        steps: of the finished cell that has most.
        spent: time of the finished cells.
    """

    label: str
    cells: tuple[Cell, ...]
    accuracy: Estimate
    greedy: Estimate
    tool_rate: float
    steps: int
    spent: Spent

    @property
    def finished(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.record.status == "finished")


def read_sweeps(folders: Sequence[Path]) -> list[Cell]:
    """Every cell of the sweeps that has been begun.

    Raises:
        UsageError: a folder holds no sweep, or a sweep without a cell.
    """
    cells = []
    for folder in folders:
        if read_sweep(folder) is None:
            raise UsageError(f"{str(folder)!r} holds no sweep; give the folder that `retool ... -m` printed")
        found = read_cells(folder)
        if not found:
            raise UsageError(f"{str(folder)!r}: no cell of the sweep has been begun")
        cells += [Cell(sweep=folder, folder=path, record=one, run=read_run(path)) for path, one in found.items()]
    return cells


def pool(cells: Sequence[Cell]) -> list[Pooled]:
    """One row for each combination, in order of first appearance."""
    several = len({cell.sweep for cell in cells}) > 1
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_label(cell, named=several), []).append(cell)
    return [_pooled(label, group) for label, group in groups.items()]


def _label(cell: Cell, *, named: bool) -> str:
    axes = " ".join(f"{axis}={value}" for axis, value in _without_seed(cell.record.values).items())
    return ": ".join(part for part in (cell.sweep.name if named else "", axes) if part) or "all seeds"


def _without_seed(values: Mapping[str, str]) -> dict[str, str]:
    return {axis: value for axis, value in values.items() if axis != SEED}


def _pooled(label: str, cells: Sequence[Cell]) -> Pooled:
    done = [cell for cell in cells if cell.record.status == "finished"]
    rates = [cell.run.tool_rate for cell in done if not math.isnan(cell.run.tool_rate)]
    return Pooled(
        label=label,
        cells=tuple(cells),
        accuracy=_across([cell.run.accuracy for cell in done]),
        greedy=_across([cell.run.greedy for cell in done]),
        tool_rate=fmean(rates) if rates else math.nan,
        steps=max((cell.run.steps for cell in done), default=0),
        spent=_spent(done),
    )


def _across(runs: Sequence[Estimate]) -> Estimate:
    """The mean over seeds, each of which counts once."""
    counted = [run for run in runs if run.num]
    if len(counted) < 2:
        return replace(counted[0], num=1) if counted else NOTHING
    means = [run.mean for run in counted]
    low, high = t_interval(means)
    return Estimate(mean=fmean(means), low=max(0.0, low), high=min(1.0, high), num=len(means))


def _spent(cells: Sequence[Cell]) -> Spent:
    attempts = [attempt for cell in cells for attempt in cell.record.attempts]
    num = max(1, len(cells))
    return Spent(
        seconds=math.fsum(one.seconds or 0.0 for one in attempts) / num,
        cpu_seconds=math.fsum(one.cpu_seconds or 0.0 for one in attempts) / num,
        complete=all(one.seconds is not None for one in attempts),
    )
