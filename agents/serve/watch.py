"""One server kept alive: the loop of start, wait, watch and pause that a supervisor runs for each.

After :attr:`Patience.losses` losses in a row its circuit is open: nothing is started for
:attr:`Patience.open_seconds`, then one more attempt is made. Only the first start of all is different: it raises, as a
mistake in the command is not cured by trying again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agents.serve.process import ServerProcess
from retool_env.errors import EngineError, UsageError

__all__ = ["Patience", "Watch"]

_LOOK_SECONDS, _ASK_SECONDS = 0.25, 5.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for what. Times in seconds.

    Attributes:
        ready_seconds: from the start until it can work.
        silent_seconds: without any answer to HTTP, after which a living server counts as lost.
        first_pause: before the first restart; doubled at each further loss, up to ``longest_pause``.
        longest_pause: see above.
        young_seconds: a server that was ready for this long has earned that former losses are forgotten.
        losses: in a row, until its circuit opens.
        open_seconds: for which it stays open.
    """

    ready_seconds: float = 900.0
    silent_seconds: float = 120.0
    first_pause: float = 1.0
    longest_pause: float = 60.0
    young_seconds: float = 300.0
    losses: int = 5
    open_seconds: float = 300.0


class Watch:
    """Keeps ``server`` alive until ``stop`` is set. :meth:`run` is one thread's work; the rest may be read by others.

    Attributes:
        ready: whether it was ready when it was last looked at.
        starts: how often it was started.
        circuit_open: whether it is given up for a while.
    """

    def __init__(
        self, server: ServerProcess, patience: Patience, stop: threading.Event, report: Callable[[str], None]
    ) -> None:
        self.server = server
        self.ready = False
        self.circuit_open = False
        self.starts = 0
        self._patience = patience
        self._stop = stop
        self._report = report
        self._losses = 0

    def run(self) -> None:
        """Until ``stop`` is set; the server is ended then. Raises :class:`EngineError` or :class:`UsageError` when it
        could not be started the first time."""
        try:
            while not self._stop.is_set():
                if self._start():
                    self._report(f"{self.server.url} is ready")
                    self._lose(self._until_lost())
                if not self._stop.is_set():
                    self._pause()
        finally:
            self.ready = False
            self.server.stop()

    def _start(self) -> bool:
        """Start it and wait until it is ready; False when that failed, or when there is to be an end."""
        self.starts += 1
        try:
            self.server.start()
            if not self.server.wait_ready(self._patience.ready_seconds, progress=self._report, stop=self._stop):
                return False
        except (EngineError, UsageError) as error:
            if self.starts == 1:
                raise
            self._lose(str(error))
            return False
        self.circuit_open = False
        self.ready = True
        return True

    def _until_lost(self) -> str:
        """Why it was lost; empty when there is to be an end."""
        began = answered = asked = time.monotonic()
        interval = min(_ASK_SECONDS, self._patience.silent_seconds / 4)
        while not self._stop.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if now - began >= self._patience.young_seconds:
                self._losses = 0
            if not self.server.alive:
                tail = "\n".join(f"    {line}" for line in self.server.tail(5))
                return f"{self.server.url} ended with code {self.server.exit_code}; it said last:\n{tail}"
            if now - asked >= interval:
                asked = now
                # Any status will do: a paused server is not healthy, and it is not lost.
                if self.server.answers("/ready", seconds=interval) is not None:
                    answered = time.monotonic()
            if time.monotonic() - answered >= self._patience.silent_seconds:
                return f"{self.server.url} has not answered for {self._patience.silent_seconds:g} s"
        return ""

    def _lose(self, reason: str) -> None:
        self.ready = False
        if self._stop.is_set():
            return
        self._losses += 1
        self.circuit_open = self._losses >= self._patience.losses
        self._report(reason)
        self.server.kill()

    def _pause(self) -> None:
        patience = self._patience
        seconds = min(patience.first_pause * 2 ** (self._losses - 1), patience.longest_pause)
        if self.circuit_open:
            seconds = patience.open_seconds
        self._report(f"{self.server.url}: restart {self.starts} in {seconds:g} s, {self._losses} losses in a row")
        self._stop.wait(seconds)
