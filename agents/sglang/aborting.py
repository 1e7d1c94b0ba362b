"""Cancelling a request that another thread waits for, without losing what it has sampled."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from agents.sglang.server import SGLangServer
from retool_env.errors import EngineError, UsageError
from retool_env.sandbox import Cancel

__all__ = ["aborting"]

DROP_SECONDS: Final = 10.0


@contextmanager
def aborting(servers: Sequence[SGLangServer], rid: str, cancel: Cancel, drop: Cancel) -> Iterator[None]:
    """Inside the block, ``cancel`` ends the request ``rid`` at ``servers``; its own call returns what it has.

    A server that does not react (it is paused, or hangs) is left alone after a while: ``drop`` closes the connection.
    """
    done = threading.Event()

    def stop() -> None:  # runs in the cancelling thread, which must not wait for the network
        work = (servers, rid, done, drop)
        threading.Thread(target=_abort_until, args=work, name="sglang-abort", daemon=True).start()

    cancel.add(stop)
    try:
        yield
    finally:
        cancel.remove(stop)
        done.set()


def _abort_until(servers: Sequence[SGLangServer], rid: str, done: threading.Event, drop: Cancel) -> None:
    """Once is not enough: an abort that arrives before its request does nothing."""
    pause, deadline = 0.0, time.monotonic() + DROP_SECONDS
    while not done.wait(pause):
        if time.monotonic() > deadline:
            drop()
            return
        for server in servers:
            with contextlib.suppress(EngineError, UsageError):
                server.abort(rid)
        pause = min(2 * pause + 0.02, 1.0)
