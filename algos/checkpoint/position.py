"""Where a run goes on, as it is stored in a checkpoint."""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from agents.run_folder import RunFolder
from algos.rollouts import RolloutState
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.trajectory import append_trajectories, read_trajectories

__all__ = ["Position", "Record", "drop_behind"]

FILE = "rollouts.json.gz"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run goes on.

    Attributes:
        step: the step that comes next.
        rollouts: their state.
    """

    step: int = 0
    rollouts: RolloutState = field(default_factory=RolloutState)


class Record(BaseModel):
    """What a checkpoint holds beside tensors.

    Attributes:
        step: the step that comes next.
        value: what made it the best one; only of ``best``.
        rollouts: their state.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: NonNegativeInt
    value: float | None = None
    rollouts: RolloutState

    def write(self, checkpoint: Path) -> None:
        """Into the folder of a checkpoint."""
        (checkpoint / FILE).write_bytes(gzip.compress(self.model_dump_json().encode(), mtime=0))

    @classmethod
    def read(cls, checkpoint: Path) -> Record:
        """From the folder of a checkpoint.

        Raises:
            UsageError: it cannot be read.
        """
        try:
            return cls.model_validate_json(gzip.decompress((checkpoint / FILE).read_bytes()))
        except (OSError, EOFError, zlib.error, ValidationError) as error:
            raise unreadable(checkpoint, checkpoint / FILE, error) from error


def unreadable(checkpoint: Path, part: Path, error: BaseException) -> UsageError:
    """The mistake of having a damaged checkpoint."""
    reason = " ".join(str(error).splitlines()[:1]) or type(error).__name__
    return UsageError(f"{part} cannot be read ({reason}); delete {checkpoint} to go on from the one before")


def drop_behind(run: RunFolder, step: int, *, trajectories_per_step: int) -> None:
    """Drop what metrics and trajectories say about ``step`` and later ones: it will be written again.

    Args:
        trajectories_per_step: how many of them a step writes.
    """
    # The evaluation at the checkpoint's step is made again, with the same result.
    run.keep_metrics(lambda phase, at: at < step)
    if run.trajectories.is_file():
        kept = itertools.islice(read_trajectories(run.trajectories), step * trajectories_per_step)
        with atomic(run.trajectories) as temporary:
            append_trajectories(temporary, kept)
