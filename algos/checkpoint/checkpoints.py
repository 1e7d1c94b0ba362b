"""Saving and loading, by all ranks together.

A checkpoint is written under a temporary name and renamed by the first rank when all have written. What one rank
cannot do is an error on all of them. With ``async_save`` the tensors are copied to the CPU and written by a thread,
which talks to the other ranks' threads over a process group of its own; the next save waits for it.

All ranks must see the run folder. The index of a checkpoint (``trainer/.metadata``) is a pickle: resume only runs that
you trust. Weights and optimizers may be loaded by another number of ranks.

The copy for ``async_save`` takes, in the memory of the CPU, what a rank holds of weights and optimizers, and on the
first rank the whole policy beside it.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load as read_tensors
from torch.distributed.checkpoint.state_dict_saver import save as write_tensors

from algos.actor_critic import Trained
from algos.checkpoint.folders import BEST, latest, publish, recover, rotate, temporary
from algos.checkpoint.position import Position, Record, unreadable
from algos.checkpoint.state import differences, restore, template, tensors
from algos.policy.parts import causal_lm
from algos.policy.world import World
from algos.sync.export import named_weights
from algos.sync.folder import write_weights
from retool_env.errors import InfrastructureError, UsageError

__all__ = ["Checkpoints"]

T = TypeVar("T")
TRAINER = "trainer"
GENERATION = "generation_config.json"
PATIENCE = timedelta(days=1)
"""How long ranks wait for the first one, which writes the whole model."""
_PLAIN = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)


class Checkpoints:
    """The checkpoints of a run. Every rank must call every method, with the same names.

    Args:
        out: run folder.
        parts: what is saved and loaded into.
        tokenizer: folder that the tokenizer's files are copied from.
        async_save: write behind the trainer's back, from a copy.
        keep_last: checkpoints on the way that stay; ``None`` for all.
        reference: save the reference too, because it changes.
    """

    def __init__(
        self,
        out: Path,
        parts: Trained,
        world: World,
        *,
        tokenizer: str,
        async_save: bool = False,
        keep_last: int | None = None,
        reference: bool = False,
    ) -> None:
        self._root, self._parts, self._world = out / "checkpoints", parts, world
        self._tokenizer, self._async, self._keep_last = Path(tokenizer), async_save, keep_last
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if world.size > 1 else None
        self._reference = reference
        self._best = -math.inf
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._in_flight: Future[None] | None = None
        if self._group is None:  # which is meant, and torch warns of it at every save
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

    def load(self) -> Position:
        """Load the latest checkpoint, and put in order what a killed run left; without one, the beginning.

        Returns:
            Where to go on; the state of rollouts on the first rank only.

        Raises:
            UsageError: the checkpoint cannot be read, or it is of other trainable weights.
        """
        folder, record = self._together(self._find)
        folder, step, self._best = self._world.from_main((folder, record.step, self._best))
        if folder is None:
            return Position()
        held = self._together(lambda: self._template(folder))
        try:
            reader = FileSystemReader(folder / TRAINER)
            read_tensors(held, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
        except CheckpointException as error:
            raise unreadable(folder, folder / TRAINER, _cause(error)) from error
        restore(self._parts, held, self._world)
        return Position(step=step, rollouts=record.rollouts)

    def save(self, name: str, position: Position) -> None:
        """Save as ``checkpoints/NAME``, in place of what has that name; then keep only the last ``step-*``.

        Raises:
            InfrastructureError: this checkpoint or, with ``async_save``, the one before could not be written.
        """
        self._save(name, Record(step=position.step, rollouts=position.rollouts))

    def keep_best(self, position: Position, value: float) -> None:
        """Save as ``checkpoints/best`` if ``value`` is above that of all before it; NaN never is.

        Args:
            value: only the first rank's counts.
        """
        value = self._world.from_main(value)
        if value > self._best:
            self._best = value
            self._save(BEST, Record(step=position.step, rollouts=position.rollouts, value=value))

    def wait(self) -> None:
        """Return when everything is written.

        Raises:
            InfrastructureError: something could not be.
        """
        future, self._in_flight = self._in_flight, None
        if future is not None:
            future.result()

    def close(self) -> None:
        """Finish what is being written, without a word about its errors; idempotent."""
        self._writer.shutdown(wait=True)

    def _save(self, name: str, record: Record) -> None:
        self.wait()
        held = tensors(self._parts, self._world, reference=self._reference)
        weights: Iterable[tuple[str, Tensor]] = named_weights(self._parts.model)
        if not self._async:
            self._write(name, record, held, weights)
            return
        held = cast(dict[str, Tensor], DefaultStager(_PLAIN).stage(held))
        main = self._world.is_main
        weights = [(key, tensor.to("cpu", copy=True)) for key, tensor in weights if main]
        self._in_flight = self._writer.submit(self._write, name, record, held, weights)

    def _write(self, name: str, record: Record, held: dict[str, Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
        folder = self._root / name
        self._together(lambda: self._export(folder, record, weights))
        writer = FileSystemWriter(temporary(folder) / TRAINER, sync_files=False)
        try:
            write_tensors(held, storage_writer=writer, process_group=self._group, no_dist=self._group is None)
        except CheckpointException as error:
            raise _unwritten(folder, _cause(error)) from error
        self._together(lambda: self._publish(folder))

    def _export(self, folder: Path, record: Record, weights: Iterable[tuple[str, Tensor]]) -> None:
        """The first rank writes model and record; the others take part in gathering."""
        target, weights = temporary(folder), iter(weights)
        try:
            if self._world.is_main:
                source, model = self._tokenizer, causal_lm(self._parts.model)
                write_weights(target, weights, config=model.config, tokenizer=str(source))
                if (source / GENERATION).is_file():
                    shutil.copyfile(source / GENERATION, target / GENERATION)
                record.write(target)
        except (OSError, SafetensorError) as error:
            raise _unwritten(folder, error) from error
        finally:
            for _ in weights:  # what the first rank left, because of an error, and all of the others
                pass

    def _publish(self, folder: Path) -> None:
        if not self._world.is_main:
            return
        try:
            publish(folder)
            if self._keep_last is not None:
                rotate(self._root, keep=self._keep_last)
        except OSError as error:
            raise _unwritten(folder, error) from error

    def _find(self) -> tuple[Path | None, Record]:
        """The first rank looks."""
        folder, record = None, Record(step=0, rollouts=Position().rollouts)
        if not self._world.is_main:
            return folder, record
        recover(self._root)
        if (self._root / BEST).is_dir():
            best = Record.read(self._root / BEST).value
            self._best = -math.inf if best is None else best
        folder = latest(self._root)
        return folder, record if folder is None else Record.read(folder)

    def _template(self, folder: Path) -> dict[str, Tensor]:
        try:
            stored = FileSystemReader(folder / TRAINER).read_metadata()
        except Exception as error:  # a damaged pickle may raise anything
            raise unreadable(folder, folder / TRAINER, error) from error
        if differ := differences(self._parts, stored, reference=self._reference):
            raise UsageError(
                f"{folder} holds other trainable weights than this run ({len(differ)} differ, e.g. {differ[0]!r}): was "
                f"model.lora, the critic or the model changed? resume with the configuration that it was saved with, "
                f"or start a new run from it with model.path={folder}"
            )
        return template(self._parts, stored, self._world, reference=self._reference)

    def _together(self, action: Callable[[], T]) -> T:
        """``action()`` on every rank; an error of one is raised on all."""
        result, error, message = None, None, None
        try:
            result = action()
        except Exception as own:  # noqa: BLE001 - raised again below, on every rank
            error = own
            message = own if isinstance(own, UsageError | InfrastructureError) else InfrastructureError(repr(own))
        messages = [message]
        if self._group is not None:
            messages = [None] * self._world.size
            dist.all_gather_object(messages, message, group=self._group)
        for raised in (error, *messages):
            if raised is not None:
                raise raised
        return cast(T, result)


def _cause(error: CheckpointException) -> BaseException:
    """What the first rank that failed says."""
    return next(iter(error.failures.values()))[0]


def _unwritten(folder: Path, error: BaseException) -> InfrastructureError:
    reason = " ".join(str(error).splitlines()[:1]) or type(error).__name__
    return InfrastructureError(
        f"checkpoint {folder} could not be written ({reason}); repair it and go on with resume=true"
    )
