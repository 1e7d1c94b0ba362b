"""Pass rates of problems, counted in the episodes of runs.

Contract: an episode that infrastructure ended counts for nothing, one that a budget cut counts as a failure. A run's
``trajectories.jsonl`` holds every episode of an evaluation, and of a training run those that it was told to log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retool_env.data.progress import track
from retool_env.errors import UsageError
from retool_env.sources.rates import Rate, write_rates
from retool_env.trajectory import read_trajectories

__all__ = ["measure_rates"]


def measure_rates(runs: Sequence[Path], out: Path) -> dict[str, Rate]:
    """Count the episodes of ``runs`` and write the bank to ``out``.

    Args:
        runs: run folders, or files of trajectories.

    Raises:
        UsageError: no such file, or no episode that counts.
    """
    rates: dict[str, Rate] = {}
    for run in runs:
        path = run / "trajectories.jsonl" if run.is_dir() else run
        for trajectory in track(read_trajectories(path), str(path)):
            record = trajectory.record
            if record.outcome.failed:
                continue
            one = Rate(id=record.problem.id, successes=int(record.correct), attempts=1)
            rates[one.id] = rates[one.id] + one if one.id in rates else one
    if not rates:
        raise UsageError(f"{', '.join(map(str, runs))}: no episode that counts")
    write_rates(out, rates)
    return rates
