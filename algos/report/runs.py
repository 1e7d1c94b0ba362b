"""What one run came to, from its folder alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.evaluation.compare import read_samples
from agents.report.stages import Metrics, Point, read_metrics
from agents.stats import Estimate, statistics

__all__ = ["RunNumbers", "accuracy", "read_run"]

NOTHING = Estimate(mean=math.nan, low=math.nan, high=math.nan, num=0)


@dataclass(frozen=True, kw_only=True)
class RunNumbers:
    """One run.

    Attributes:
        accuracy: of the last evaluation, sampled, with its interval over problems; NaN without one.
        greedy: the same at temperature 0.
        tool_rate: share of the episodes of that evaluation with a call.
        steps: training steps that are logged.
        held_out: accuracy by step, of the evaluations on the way.
        training: accuracy by step, of the training batches.
    """

    accuracy: Estimate
    greedy: Estimate
    tool_rate: float
    steps: int
    held_out: tuple[Point, ...]
    training: tuple[Point, ...]


def read_run(folder: Path) -> RunNumbers:
    """The numbers of a training or an evaluation; what is not there (yet) is NaN, 0 or empty.

    Raises:
        UsageError: a file of episodes is damaged.
    """
    metrics = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else Metrics()
    sampled, rate = _evaluation([folder / "eval" / "sampled.jsonl", folder / "trajectories.jsonl"], metrics)
    greedy, _ = _evaluation([folder / "eval" / "greedy.jsonl"], metrics)
    return RunNumbers(
        accuracy=sampled,
        greedy=greedy,
        tool_rate=rate,
        steps=sum(row.phase == "train" for row in metrics.rows),
        held_out=metrics.series("eval", "eval/accuracy"),
        training=metrics.series("train", "accuracy/mean"),
    )


def accuracy(folder: Path) -> float | None:
    """The score of a finished run, for sweepers that look for the best one."""
    found = read_run(folder).accuracy.mean
    return None if math.isnan(found) else found


def _evaluation(files: Sequence[Path], metrics: Metrics) -> tuple[Estimate, float]:
    """Accuracy and tool rate of the first file that is there. Episodes in the folder of a training are its batches."""
    for path in files:
        if path.is_file() and not (metrics.rows and path.name == "trajectories.jsonl"):
            found = statistics(read_samples(path))
            return found.accuracy, found.tool_use.mean
    return NOTHING, math.nan
