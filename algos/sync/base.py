"""How what was trained reaches whoever samples.

A trainer does two things with a :class:`WeightSync`::

    with sync.guard():
        optimizer.step()
        sync.publish(version)

``guard`` keeps requests in flight from reading half-updated tensors where sampler and trainer share them, so engines
that share must allow ``paused`` inside ``paused``; ``publish`` brings the weights over, if they have to be, and gives
them their number. What is sampled behind it carries that number.

On several ranks every rank calls both, because gathering shards is a collective operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

from torch import nn

from agents.base import Engine
from agents.embedded import EmbeddedAgent
from algos.sync.export import load_weights, named_weights

__all__ = ["CopiedWeights", "EveryWeights", "SharedWeights", "WeightSync"]


class WeightSync(Protocol):
    """Brings a trained model to an engine."""

    def guard(self) -> AbstractContextManager[None]:
        """Hold while the model's tensors change."""
        ...

    def publish(self, version: int) -> None:
        """From now on the engine samples from the model as it is, under this number.

        Raises:
            InfrastructureError: no server has the new weights.
        """
        ...


class SharedWeights:
    """The engine reads the trainer's own tensors: nothing travels, but nobody may sample while they change.

    Right only for an unsharded model without adapters, of the dtype that is to generate.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def guard(self) -> AbstractContextManager[None]:
        return self._engine.paused()

    def publish(self, version: int) -> None:
        with self._engine.paused():
            self._engine.set_version(version)


class EveryWeights:
    """Several engines of one trainer, one after the other."""

    def __init__(self, parts: Sequence[WeightSync]) -> None:
        self._parts = parts

    @contextmanager
    def guard(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part.guard())
            yield

    def publish(self, version: int) -> None:
        for part in self._parts:
            part.publish(version)


class CopiedWeights:
    """The embedded engine has a model of its own, which gets a gathered, merged, cast copy.

    Args:
        engine: its model has the architecture of ``model`` and may have another dtype or device; ``None`` on all
            ranks but the first, which only help to gather.
        model: what is trained: sharded, with adapters, or of another dtype.
    """

    def __init__(self, engine: EmbeddedAgent | None, model: nn.Module) -> None:
        self._engine, self._model = engine, model

    def guard(self) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(self, version: int) -> None:
        if self._engine is None:
            for _ in named_weights(self._model):
                """Gathering needs all ranks."""
            return
        with self._engine.paused():
            load_weights(self._engine.model, named_weights(self._model))
            self._engine.set_version(version)
