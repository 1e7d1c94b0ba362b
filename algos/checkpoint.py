"""Checkpoints: everything that a killed run needs to go on as if nothing had happened.

A folder ``checkpoints/step-N`` holds model and tokenizer in Hugging Face format, the optimizer's state
(``trainer.pt``) and the rollouts' (``rollouts.json.gz``); it is there complete or not at all. What the run wrote to its
other files behind the checkpoint is dropped when it goes on, because it will be written again.
"""

from __future__ import annotations

import gzip
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from agents.loading import save_checkpoint
from agents.run_folder import RunFolder
from algos.rollouts import RolloutState
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.trajectory import append_trajectories, read_trajectories

__all__ = ["Position", "drop_behind", "last_checkpoint", "load", "save"]

TRAINER = "trainer.pt"
ROLLOUTS = "rollouts.json.gz"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run goes on.

    Attributes:
        step: the step that comes next.
        rollouts: their state.
    """

    step: int = 0
    rollouts: RolloutState = field(default_factory=RolloutState)


def last_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint of the latest step; ``None`` when there is none yet."""
    if run.checkpoint("final").is_dir():
        return run.checkpoint("final")
    return max((run.path / "checkpoints").glob("step-*"), default=None)


def save(
    folder: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    position: Position,
    *,
    tokenizer: str,
) -> None:
    """Write a checkpoint; the folder appears complete or not at all.

    Args:
        tokenizer: folder that the tokenizer is copied from.
    """

    def write_state(target: Path) -> None:
        torch.save({"optimizer": optimizer.state_dict(), "step": position.step}, target / TRAINER)
        (target / ROLLOUTS).write_bytes(gzip.compress(position.rollouts.model_dump_json().encode(), mtime=0))

    save_checkpoint(folder, model, tokenizer, extra=write_state)


def load(checkpoint: Path | None, optimizer: torch.optim.Optimizer) -> Position:
    """Load the optimizer's state; returns where to go on. Without a checkpoint that is the beginning.

    Raises:
        UsageError: the checkpoint lacks the rollouts' state or it cannot be read.
    """
    if checkpoint is None:
        return Position()
    try:
        raw = gzip.decompress((checkpoint / ROLLOUTS).read_bytes())
        rollouts = RolloutState.model_validate_json(raw)
    except (OSError, EOFError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{checkpoint / ROLLOUTS} cannot be read ({reason}); delete {checkpoint} to go on from the one before"
        ) from error
    state = torch.load(checkpoint / TRAINER, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return Position(step=int(state["step"]), rollouts=rollouts)


def drop_behind(run: RunFolder, step: int, *, trajectories_per_step: int) -> None:
    """Drop what metrics and trajectories say about ``step`` and later ones.

    Args:
        trajectories_per_step: how many of them a step writes.
    """
    # The evaluation at the checkpoint's step is made again, with the same result.
    run.keep_metrics(lambda phase, at: at < step)
    if run.trajectories.is_file():
        kept = itertools.islice(read_trajectories(run.trajectories), step * trajectories_per_step)
        with atomic(run.trajectories) as temporary:
            append_trajectories(temporary, kept)
