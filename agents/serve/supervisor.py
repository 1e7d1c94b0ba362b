"""Servers kept alive, one thread for each: one that dies or falls silent is started again (``watch``).

It gives up, and says why, when the first start of a server fails or when the circuits of all are open. A restarted
server has the weights of its command line: whoever updates weights has to give it the present ones, and the client
keeps it out of use until then (``agents.sglang``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from agents.serve.process import ServerProcess, ServerSpec
from agents.serve.watch import Patience, Watch
from retool_env.errors import EngineError, UsageError

__all__ = ["Supervisor"]

_logger = logging.getLogger(__name__)


class Supervisor:
    """Servers kept alive as long as the ``with`` block lasts.

    Args:
        specs: what to start.
        patience: how long to wait for what.
        report: is told every change, in one line or with the end of a log; by default the log is.
    """

    def __init__(
        self,
        specs: Sequence[ServerSpec],
        *,
        patience: Patience | None = None,
        report: Callable[[str], None] = _logger.info,
    ) -> None:
        self._report = report
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._failure: EngineError | UsageError | None = None
        self._watches = [Watch(ServerProcess(spec), patience or Patience(), self._stop, self._hear) for spec in specs]
        self._threads = [
            threading.Thread(target=self._keep, args=(watch,), name=f"serve-{watch.server.spec.port}", daemon=True)
            for watch in self._watches
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(watch.server.url for watch in self._watches)

    @property
    def ready(self) -> tuple[bool, ...]:
        """Which servers were ready when they were last looked at."""
        return tuple(watch.ready for watch in self._watches)

    @property
    def restarts(self) -> tuple[int, ...]:
        """How often each server was started again."""
        return tuple(max(0, watch.starts - 1) for watch in self._watches)

    def wait_ready(self) -> bool:
        """Until all are ready; False when the supervisor was stopped first. Raises what :meth:`wait` raises."""
        self._await(lambda: all(self.ready))
        return all(self.ready)

    def wait(self) -> None:
        """Until the supervisor is stopped. Raises :class:`EngineError` or :class:`UsageError` when it gave up."""
        self._await(lambda: False)

    def stop(self) -> None:
        """End all servers, which finish at the same time; idempotent."""
        self._finish(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def kill(self) -> None:
        """End all servers at once, without their grace, also when a :meth:`stop` was broken off."""
        self._finish(None)
        for watch in self._watches:
            watch.server.kill()
        self.stop()

    def _keep(self, watch: Watch) -> None:
        try:
            watch.run()
        except (EngineError, UsageError) as error:
            self._finish(error)

    def _hear(self, message: str) -> None:
        self._report(message)
        if all(watch.circuit_open for watch in self._watches):
            self._finish(EngineError("no server stays alive; what each of them said last is above and in its log"))
        with self._changed:
            self._changed.notify_all()

    def _finish(self, failure: EngineError | UsageError | None) -> None:
        self._failure = self._failure or failure
        self._stop.set()
        with self._changed:
            self._changed.notify_all()

    def _await(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or condition())
        if self._failure is not None:
            raise self._failure
