"""Every thread for itself: how environment threads use an engine that batches on its own.

Behind the gate each environment thread calls ``agent.act``, so no turn waits for the slowest of a batch; what runs
together is the engine's business. An engine that runs in this process may offer ``serve`` and ``poke``
(:class:`Driven`): it then generates in the trainer's thread while that waits for trajectories.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from agents.base import Agent, Generation, Request, timed
from agents.gate import Gate, Stopped
from retool_env.errors import EngineError
from retool_env.sandbox import Cancel

__all__ = ["Driven", "FreeRun"]

_log = logging.getLogger(__name__)


@runtime_checkable
class Driven(Agent, Protocol):
    """An agent that can be driven by the thread that waits for its results."""

    def serve(self, done: Callable[[], bool]) -> None:
        """Generate in the calling thread until ``done()``; whoever makes it true calls :meth:`poke`."""
        ...

    def poke(self) -> None: ...


class FreeRun:
    """The gate, and behind it one request in flight per thread.

    Args:
        agent: thread-safe, as every agent is.
        gate: says which tickets may begin.
    """

    def __init__(self, agent: Agent, gate: Gate) -> None:
        self._agent, self._gate = agent, gate
        self._cancel = Cancel()
        self._closed = False
        self._changed = threading.Condition()

    def act(self, ticket: int, request: Request) -> Generation:
        """Wait for the gate, then ask the agent; called by the environment's own thread.

        Raises:
            EngineError: the agent failed; the cause is logged, because episodes keep only the outcome.
            Stopped: :meth:`close` was called.
        """
        self._gate.wait(ticket)
        try:
            (generation,) = timed(lambda: [self._agent.act(dataclasses.replace(request, cancel=self._cancel))])
        except RuntimeError as error:  # an EngineError, or what torch raises when memory or a device fails
            if self._closed:
                raise Stopped from error
            _log.error("the engine failed in ticket %d: %s", ticket, error)
            if isinstance(error, EngineError):
                raise
            raise EngineError(f"{type(error).__name__}: {error}") from error
        if self._closed:
            raise Stopped
        return generation

    def set_version(self, version: int) -> None:
        """The policy has a new version: let the threads go on that waited for it."""
        self._gate.set_version(version)

    def serve(self, done: Callable[[], bool]) -> None:
        """Wait until ``done()`` or :meth:`close`; generate meanwhile, where the agent wants this thread for it."""
        if isinstance(self._agent, Driven):
            self._agent.serve(lambda: self._closed or done())
            return
        with self._changed:
            self._changed.wait_for(lambda: self._closed or done())

    def poke(self) -> None:
        """Let :meth:`serve` ask ``done()`` again."""
        if isinstance(self._agent, Driven):
            self._agent.poke()
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel what is in flight and wake every waiting thread with :class:`Stopped`; idempotent."""
        self._closed = True
        self._gate.close()
        self._cancel()
        self.poke()
