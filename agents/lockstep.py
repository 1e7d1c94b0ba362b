"""Many threads, one batch at a time: the scheduler between environment threads and the embedded engine.

Each environment thread is a slot and calls :meth:`Lockstep.act`, which returns when the slot's turn has been
generated. A slot is *live* until it submits a request or parks at the gate; when no slot is live, everything that was
submitted runs as one batch, ordered by ticket. So the batches, and with them every bit of the result, do not depend
on which thread was quick.

Batches run in the thread that calls :meth:`Lockstep.serve`: the trainer's, which waits for trajectories anyway. With
the engine in a thread of its own, torch has two teams of OpenMP threads, more than there are cores, and every small
operation takes twice as long.

**The gate.** Environment threads run free: when an episode ends, the next one is reset at once. A request for a ticket
of training step ``k`` waits until the policy version is at least ``k - staleness``; with staleness 0 every sample of a
step comes from one version (on-policy), above 0 the same code trains with bounded staleness. Blocking here rather than
in ``reset`` matters: TorchRL resets before it delivers the finished episode.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from agents.base import BatchAgent, Generation, Request, act_many
from retool_env.errors import EngineError

__all__ = ["Lockstep", "Stopped"]


class Stopped(EngineError):
    """The scheduler was closed while a slot waited."""


class _State(Enum):
    LIVE = auto()
    SUBMITTED = auto()
    PARKED = auto()


@dataclass
class _Slot:
    state: _State = _State.LIVE
    ticket: int = -1
    request: Request | None = None
    result: Generation | EngineError | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Lockstep:
    """Batches the turns of ``num_slots`` threads.

    Args:
        agent: runs the batches.
        num_slots: threads that will call :meth:`act`; a batch waits for every one of them.
        tickets_per_step: tickets of one training step.
        staleness: how many versions older than its step the policy of a sample may be.
    """

    def __init__(self, agent: BatchAgent, *, num_slots: int, tickets_per_step: int, staleness: int = 0) -> None:
        self._agent = agent
        self._slots = [_Slot() for _ in range(num_slots)]
        self._tickets_per_step = tickets_per_step
        self._staleness = staleness
        self._version = -1  # nothing moves before the first set_version
        self._closed = False
        self._changed = threading.Condition()  # only serve() waits on it; slots wait on their own event

    def act(self, slot: int, ticket: int, request: Request) -> Generation:
        """Wait for the gate and for the batch; called by the slot's own thread.

        Raises:
            EngineError: the engine failed.
            Stopped: :meth:`close` was called.
        """
        mine = self._slots[slot]
        with self._changed:
            if self._closed:
                raise Stopped("the rollout was stopped")
            mine.ticket, mine.request, mine.result = ticket, request, None
            mine.done.clear()
            mine.state = _State.SUBMITTED if self._open_for(ticket) else _State.PARKED
            self._changed.notify()
        mine.done.wait()
        if mine.result is None:
            raise Stopped("the rollout was stopped")
        if isinstance(mine.result, EngineError):
            raise mine.result
        return mine.result

    def set_version(self, version: int) -> None:
        """The policy has a new version: let the slots go on that waited for it, all at once."""
        with self._changed:
            self._version = version
            for slot in self._slots:
                if slot.state is _State.PARKED and self._open_for(slot.ticket):
                    slot.state = _State.SUBMITTED
            self._changed.notify()

    def serve(self, done: Callable[[], bool]) -> None:
        """Run batches in this thread until ``done()``; whoever makes it true calls :meth:`poke`."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: done() or self._closed or self._ready())
                if done() or self._closed:
                    return
                batch = sorted((s for s in self._slots if s.state is _State.SUBMITTED), key=lambda s: s.ticket)
            results: Sequence[Generation | EngineError] = self._run(batch)
            with self._changed:
                for slot, result in zip(batch, results, strict=True):
                    slot.state, slot.result = _State.LIVE, result
                    slot.done.set()

    def poke(self) -> None:
        """Let :meth:`serve` look at its condition again."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Wake every waiting slot with :class:`Stopped`; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for slot in self._slots:
            slot.done.set()

    def _open_for(self, ticket: int) -> bool:
        return self._version >= ticket // self._tickets_per_step - self._staleness

    def _ready(self) -> bool:
        states = {slot.state for slot in self._slots}
        return _State.LIVE not in states and _State.SUBMITTED in states

    def _run(self, batch: list[_Slot]) -> Sequence[Generation | EngineError]:
        requests = [slot.request for slot in batch if slot.request is not None]
        try:
            return act_many(self._agent, requests)
        except EngineError as error:
            return [error] * len(batch)
