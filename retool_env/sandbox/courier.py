"""HTTP requests that another thread can call back: what a synchronous client of a sandbox server needs.

All requests of one :class:`Courier` run on one event loop in a thread of its own, over one pool of connections, because
only there can a request be dropped in the middle: its connection is closed, and a server that cares ends the run. The
caller's thread waits. Proxies named in the environment are not used: the programs of a training run do not go through
them.

Left out: what to ask and whether to ask again (``fusion``).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import httpx

from retool_env.sandbox.base import Cancel

__all__ = ["Courier", "DroppedError"]

T = TypeVar("T")


class DroppedError(Exception):
    """The request was dropped: by its ``Cancel``, or because the courier was closed."""


class Courier:
    """Sends requests to one server. Thread-safe; belongs to the process that made it.

    Args:
        url: of the server, without a path.
        headers: of every request.
        max_connections: further requests wait for one that is free.
        connect_seconds: until a server that does not answer at all is given up.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], max_connections: int, connect_seconds: float) -> None:
        self.owner = os.getpid()
        self._client = httpx.AsyncClient(
            base_url=url,
            headers=dict(headers),
            # The only other limit is the caller's: a run takes as long as it is allowed to, and may wait before.
            timeout=httpx.Timeout(None, connect=connect_seconds),
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            trust_env=False,
        )
        self._lock = threading.Lock()
        self._flying: set[concurrent.futures.Future[Any]] = set()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox-client", daemon=True)
        self._thread.start()

    def send(
        self, method: str, path: str, content: bytes = b"", *, seconds: float, cancel: Cancel | None = None
    ) -> httpx.Response:
        """Send a request and return the answer, read to its end.

        Raises:
            httpx.TransportError: no answer.
            TimeoutError: none within ``seconds``.
            DroppedError: cancelled or closed.
        """
        future = self._start(self._client.request(method, path, content=content))

        def drop() -> None:
            future.cancel()

        if cancel is not None:
            cancel.add(drop)
        try:
            return future.result(max(seconds, 0.0))
        except concurrent.futures.CancelledError:
            raise DroppedError from None
        finally:
            future.cancel()
            if cancel is not None:
                cancel.remove(drop)
            with self._lock:
                self._flying.discard(future)

    def _start(self, request: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        with self._lock:
            if self._closed:
                request.close()
                raise DroppedError
            future = asyncio.run_coroutine_threadsafe(request, self._loop)
            self._flying.add(future)
            return future

    def close(self) -> None:
        """Drop every request and end the thread. Nothing to do in a forked process, which has neither."""
        if self.owner != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            flying = list(self._flying)
        for future in flying:
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
