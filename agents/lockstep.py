"""Many threads, one batch at a time: how environment threads share an engine in deterministic mode.

Each environment thread calls :meth:`Lockstep.act`, which returns when its turn has been generated. A thread is *live*
until it waits here; when none is live, every turn whose ticket the gate admits runs as one batch, ordered by ticket. So
the batches, and with them every bit of the result, do not depend on which thread was quick. The price is that each
batch waits for the slowest tool call; :class:`agents.free.FreeRun` does not, and is not deterministic.

Batches run in the thread that calls :meth:`Lockstep.serve`: the trainer's, which waits for trajectories anyway. With
the engine in a thread of its own, torch has two teams of OpenMP threads, more than there are cores, and every small
operation takes twice as long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agents.base import BatchAgent, Generation, Request, act_many
from agents.gate import Gate, Stopped
from retool_env.errors import EngineError

__all__ = ["Lockstep"]


@dataclass
class _Turn:
    request: Request
    result: Generation | EngineError | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Lockstep:
    """Batches the turns of ``num_slots`` threads.

    Args:
        agent: runs the batches.
        gate: says which tickets may begin.
        num_slots: threads that will call :meth:`act`; a batch waits for every one of them.
    """

    def __init__(self, agent: BatchAgent, gate: Gate, *, num_slots: int) -> None:
        self._agent, self._gate, self._num_slots = agent, gate, num_slots
        self._waiting: dict[int, _Turn] = {}  # by ticket
        self._closed = False
        self._changed = threading.Condition()  # only serve() waits on it; threads wait on their own event

    def act(self, ticket: int, request: Request) -> Generation:
        """Wait for the gate and for the batch; called by the environment's own thread.

        Raises:
            EngineError: the engine failed.
            Stopped: :meth:`close` was called.
        """
        turn = _Turn(request)
        with self._changed:
            if self._closed:
                raise Stopped
            self._waiting[ticket] = turn
            self._changed.notify()
        turn.done.wait()
        if turn.result is None:
            raise Stopped
        if isinstance(turn.result, EngineError):
            raise turn.result
        return turn.result

    def set_version(self, version: int) -> None:
        """The policy has a new version: let the threads go on that waited for it, all at once."""
        with self._changed:
            self._gate.set_version(version)
            self._changed.notify()

    def serve(self, done: Callable[[], bool]) -> None:
        """Run batches in this thread until ``done()``, which is asked when every thread waits, or :meth:`close`.

        So the state of things when it returns does not depend on which thread was quick either.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or (self._all_wait() and (done() or self._batch())))
                if self._closed or done():
                    return
                batch = self._batch()
            results: Sequence[Generation | EngineError] = self._run([turn for _, turn in batch])
            with self._changed:
                for (ticket, turn), result in zip(batch, results, strict=True):
                    del self._waiting[ticket]
                    turn.result = result
                    turn.done.set()

    def poke(self) -> None:
        """Nothing: what makes :meth:`serve` look again is a thread that begins to wait."""

    def close(self) -> None:
        """Wake every waiting thread with :class:`Stopped`, and end :meth:`serve`; idempotent."""
        self._gate.close()
        with self._changed:
            self._closed = True
            self._changed.notify()
            for turn in self._waiting.values():
                turn.done.set()

    def _all_wait(self) -> bool:
        return len(self._waiting) == self._num_slots

    def _batch(self) -> list[tuple[int, _Turn]]:
        return sorted((item for item in self._waiting.items() if self._gate.is_open(item[0])), key=lambda item: item[0])

    def _run(self, batch: list[_Turn]) -> Sequence[Generation | EngineError]:
        try:
            return act_many(self._agent, [turn.request for turn in batch])
        except EngineError as error:
            return [error] * len(batch)
