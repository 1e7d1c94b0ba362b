"""What is known about the episodes of an evaluation, and how they are read.

Contract: of every ticket the episode that counts, else its last failure. A line torn by a failed write is passed over
and named in a warning: its episode was not played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agents.evaluation.misses import Miss
from agents.stats import Sample, run_file
from retool_env.errors import UsageError
from retool_env.trajectory import Trajectory, read_trajectories

__all__ = ["Played", "read_episodes"]

TRAJECTORIES: Final = "trajectories.jsonl"
FAILURES: Final = "failures.jsonl"


class Played:
    """What is known about the episodes of an evaluation, without their tokens.

    Attributes:
        samples: of every episode that counts, by ticket.
        misses: the wrong ones among them.
        failed: the last failure of every ticket that has no episode that counts.
        attempts: how often each ticket has failed.
    """

    def __init__(self) -> None:
        self.samples: dict[int, Sample] = {}
        self.misses: dict[int, Miss] = {}
        self.failed: dict[int, tuple[Sample, Miss]] = {}
        self.attempts: Counter[int] = Counter()

    @classmethod
    def read(cls, folder: Path) -> Played:
        """What the files say, as far as they are there.

        Raises:
            UsageError: a line cannot be read, or an episode is there twice.
        """
        played = cls()
        for path in (folder / FAILURES, folder / TRAJECTORIES):
            for trajectory in read_trajectories(path, skip_torn=True) if path.is_file() else ():
                if trajectory.ticket in played.samples:
                    raise UsageError(f"{path}: episode {trajectory.ticket} is there twice; delete one line")
                played.note(trajectory)
        return played

    def note(self, trajectory: Trajectory) -> None:
        """One more episode."""
        ticket, sample, miss = trajectory.ticket, Sample.of(trajectory), Miss.of(trajectory)
        if sample.outcome.failed:
            assert miss is not None, "a failure is no right answer"
            self.attempts[ticket] += 1
            self.failed[ticket] = (sample, miss)
            return
        assert ticket not in self.samples, f"ticket {ticket} was played twice"
        self.failed.pop(ticket, None)
        self.samples[ticket] = sample
        if miss is not None:
            self.misses[ticket] = miss


def read_episodes(run: Path) -> Iterator[Trajectory]:
    """The episodes of a run folder or a file of trajectories; those of an evaluation that failed for good come last.

    Raises:
        UsageError: the file is missing or broken.
    """
    failures = run / FAILURES
    is_evaluation = failures.is_file()
    failed = {t.ticket: t for t in read_trajectories(failures, skip_torn=True)} if is_evaluation else {}
    for trajectory in read_trajectories(run_file(run), skip_torn=is_evaluation):
        failed.pop(trajectory.ticket, None)
        yield trajectory
    yield from failed.values()
