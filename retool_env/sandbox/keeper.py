"""Keeps one zygote alive for many threads: a lost one is replaced, with growing pauses while they die young.

After :data:`PATIENCE` losses in a row the circuit is open: for some seconds every caller is told at once that the
sandbox is not available, instead of waiting for what will fail again; then one more attempt is made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from retool_env.errors import SandboxError
from retool_env.sandbox.process import ZygoteProcess
from retool_env.sandbox.remedies import TierError

__all__ = ["PATIENCE", "Keeper", "UnavailableError"]

PATIENCE: Final = 4
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_OPEN_SECONDS = 15.0
_YOUNG_SECONDS = 5.0

_logger = logging.getLogger(__name__)


class UnavailableError(SandboxError):
    """Zygotes were lost so often that none is started for a while."""


class Keeper:
    """One place for a zygote, filled by ``start`` when it is first needed. Thread-safe."""

    def __init__(self, start: Callable[[], ZygoteProcess]) -> None:
        self._new = start
        self._lock = threading.Lock()
        self._zygote: ZygoteProcess | None = None
        self._refusal: TierError | None = None
        self._losses = 0
        self._open_until = 0.0
        self._closed = False
        self.starts = 0
        self.lost = 0

    def get(self) -> ZygoteProcess:
        """The living zygote, started now if need be. Raises :class:`SandboxError` or :class:`TierError`."""
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._zygote is None:
                self._zygote = self._start()
            return self._zygote

    def _start(self) -> ZygoteProcess:
        if self._refusal is not None:
            # The host will not change its mind, and probing it again for every program would be slow.
            raise self._refusal
        left = self._open_until - time.monotonic()
        if left > 0:
            raise UnavailableError(f"the sandbox failed {self._losses} times in a row; next attempt in {left:.0f} s")
        if self._losses:
            time.sleep(min(_FIRST_PAUSE * 2**self._losses, _LONGEST_PAUSE))
        try:
            self.starts += 1
            return self._new()
        except TierError as error:
            self._refusal = error
            raise
        except SandboxError:
            self._count_loss()
            raise

    def _count_loss(self) -> None:
        self._losses += 1
        self.lost += 1
        if self._losses >= PATIENCE:
            self._open_until = time.monotonic() + _OPEN_SECONDS

    def retire(self, zygote: ZygoteProcess) -> None:
        """``zygote`` is dead or stuck: end it for good, so that the next :meth:`get` starts another one."""
        with self._lock:
            if self._zygote is not zygote:
                return
            self._zygote = None
            lived = time.monotonic() - zygote.born
            if lived >= _YOUNG_SECONDS:
                self._losses = 0
            self._count_loss()
            zygote.stop()
            _logger.warning("a zygote was lost after %.1f s: %s", lived, zygote.last_words)

    def praise(self) -> None:
        """The zygote has just served a program: what was before is forgiven."""
        self._losses = 0

    def close(self) -> None:
        """End the zygote and start no other one."""
        with self._lock:
            self._closed = True
            if self._zygote is not None:
                self._zygote.stop()
                self._zygote = None
