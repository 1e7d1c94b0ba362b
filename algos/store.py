"""The rollout store: every trajectory that a run trained on, a compressed file per step.

``RUN/rollouts/step-000012.jsonl.gz`` holds what step 12 took, in ticket order, a :class:`Trajectory` per line; it is
there complete or not at all. ``RUN/rollouts/store.json`` says what a trainer must have in common with the rollouts.
Trajectories that wait for a later step are in the checkpoint, so the files of a run hold each ticket at most once.

:class:`StoredRollouts` gives them out again: training from a store needs neither engine nor environment, and with the
configuration of the run that wrote it, it makes the same weights.

What is not compared: the problems, the environment and the model. Rollouts of another policy can be trained on; the
clipped ratio is then what keeps them in check.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agents.base import Sampling
from algos.config import TrainConfig
from algos.rollouts import RolloutState
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.tokenizer import Tokenizer, load_tokenizer
from retool_env.trajectory import Trajectory, read_trajectories

__all__ = ["RolloutStore", "StoreHeader", "StoredRollouts", "vocabulary_digest"]

FOLDER = "rollouts"
HEADER = "store.json"
QUICK = 1  # zlib's level: ids and log-probabilities hardly get smaller with more


class StoreHeader(BaseModel):
    """What rollouts and the trainer that reads them must have in common.

    Attributes:
        schema_version: of the files.
        vocabulary: digest of the tokenizer's vocabulary (:func:`vocabulary_digest`).
        group_size: samples of a problem.
        prompts_per_step: problems of a step.
        sampling: how the ids were drawn; the log-probabilities are of this distribution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    vocabulary: str
    group_size: int
    prompts_per_step: int
    sampling: Sampling

    @classmethod
    def of(cls, config: TrainConfig, tokenizer: str) -> StoreHeader:
        """Of a run."""
        return cls(
            vocabulary=vocabulary_digest(load_tokenizer(tokenizer)),
            group_size=config.algo.group_size,
            prompts_per_step=config.algo.prompts_per_step,
            sampling=config.rollout.sampling,
        )


def vocabulary_digest(tokenizer: Tokenizer) -> str:
    """Names what every id means, so that ids of one tokenizer are not trained on with another."""
    digest = hashlib.blake2b(f"{tokenizer.vocab_size} {tokenizer.eos_id}".encode(), digest_size=16)
    for index in range(tokenizer.vocab_size):
        digest.update(tokenizer.decode([index]).encode() + b"\0")
    return digest.hexdigest()


class RolloutStore:
    """Writes the trajectories of a run.

    Args:
        run: the run folder.
        header: what they have in common.
        first: the step that the run goes on with; files of this and later steps are dropped.
    """

    def __init__(self, run: Path, header: StoreHeader, *, first: int = 0) -> None:
        self._folder = run / FOLDER
        with atomic(self._folder / HEADER) as temporary:
            temporary.write_text(header.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for step, path in _steps(self._folder).items():
            if step >= first:
                path.unlink()

    def write(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """What step ``step`` takes."""
        with atomic(_file(self._folder, step)) as temporary, gzip.open(temporary, "wt", QUICK, "utf-8") as file:
            file.writelines(trajectory.to_json() + "\n" for trajectory in trajectories)


class StoredRollouts:
    """Rollouts that another run stored. What its steps took is what these steps take.

    Args:
        run: a run folder.
        header: of the run that trains.
        num_steps: how many steps will be asked for.

    Raises:
        UsageError: there is no store, or it does not fit the run that trains.
    """

    def __init__(self, run: Path, header: StoreHeader, *, num_steps: int) -> None:
        self._folder = run / FOLDER
        self._header = header
        stored = self._read_header()
        for name, mine in header:
            if (theirs := getattr(stored, name)) != mine:
                raise UsageError(f"rollout.replay={str(run)!r} has {_describe(name, theirs)}; {_advice(name, mine)}")
        there = _steps(self._folder)
        missing = next((step for step in range(num_steps) if step not in there), None)
        if missing is not None:
            raise UsageError(
                f"rollout.replay={str(run)!r} has no step {missing}, and algo.steps={num_steps}; "
                f"it holds {len(there)} steps{', set algo.steps=' + str(missing) if missing else ''}"
            )

    def collect(self, step: int) -> list[Trajectory]:
        path = _file(self._folder, step)
        trajectories = list(read_trajectories(path))
        sizes = [len(list(members)) for _, members in itertools.groupby(trajectories, key=lambda t: t.group)]
        if set(sizes) != {self._header.group_size} or len(sizes) < self._header.prompts_per_step:
            raise UsageError(
                f"{path}: {len(trajectories)} trajectories in {len(sizes)} groups are not the "
                f"{self._header.prompts_per_step} groups of {self._header.group_size} of a step; "
                "the file was changed, take it from where it was written"
            )
        return trajectories

    def more(self, num_groups: int) -> list[Trajectory]:
        """What a step took is in its file, further groups included."""
        return []

    def set_version(self, version: int) -> None:
        """Nothing is sampled here."""

    def state_dict(self) -> RolloutState:
        return RolloutState()

    def load_state_dict(self, state: RolloutState) -> None:
        """A step is a file; there is nothing to go on from."""

    def close(self) -> None:
        """Nothing runs here."""

    def _read_header(self) -> StoreHeader:
        path = self._folder / HEADER
        if not path.is_file():
            raise UsageError(
                f"rollout.replay={str(self._folder.parent)!r}: no {FOLDER}/{HEADER} there; give the folder of a run "
                "that had rollout.store=true"
            )
        try:
            return StoreHeader.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UsageError(f"{path} cannot be read ({message}); was it written by another version?") from error


def _describe(name: str, value: object) -> str:
    return "ids of another vocabulary" if name == "vocabulary" else f"{name}={value}"


def _advice(name: str, mine: object) -> str:
    if name == "vocabulary":
        return "train a model with the tokenizer that they were made with"
    key = "rollout.sampling" if name == "sampling" else f"algo.{name}"
    return f"this run has {key}={mine}, set it to the same"


def _file(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}.jsonl.gz"


def _steps(folder: Path) -> dict[int, Path]:
    """Files by step; what a killed run was writing has another name."""
    return {int(path.name[5:].split(".")[0]): path for path in sorted(folder.glob("step-*.jsonl.gz"))}
