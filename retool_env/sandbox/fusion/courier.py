"""HTTP requests that another thread can call back: what a synchronous client of a sandbox server needs.

A :class:`Courier` keeps a stack of connections, each with an HTTP client of its own, so that it is known which
connection carries which request. To drop a request is to shut its connection down: the waiting thread wakes at once,
and a server that cares ends the run. The time of a request is the time of all of it: the client's own limit is for each
read, which a server that sends a space now and then never reaches. Proxies named in the environment are not used,
because the programs of a training run should not go through them.

Left out: what to ask and whether to ask again (``fusion``). A request that is dropped while its connection is being
made ends when that is done or given up.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx

from retool_env.sandbox.base import Cancel

__all__ = ["Courier", "DroppedError", "retry_after"]


class DroppedError(Exception):
    """The request was dropped: by its ``Cancel``, or because the courier was closed."""


class _Errand:
    """One request, from its wait for a connection to its answer. ``drop`` may come from any thread at any moment."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self.dropped = False

    def drop(self) -> None:
        with self._lock:
            self.dropped = True
            if self._line is not None:
                self._line.cut()
        with self._changed:
            self._changed.notify_all()

    def take(self, line: _Line | None) -> None:
        """From here on ``drop`` cuts this line; with ``None`` it cuts no line any more."""
        with self._lock:
            self._line = line

    def check(self) -> None:
        if self.dropped:
            raise DroppedError


class _Line:
    """At most one connection to the server, made when it is needed and kept."""

    def __init__(self, client: httpx.Client, connect_seconds: float) -> None:
        self.client = client
        self._connect_seconds = connect_seconds
        self._stream: Any = None
        self._deadline = 0.0

    def send(self, errand: _Errand, method: str, path: str, content: bytes, deadline: float) -> httpx.Response:
        def watch(event: str, info: Mapping[str, Any]) -> None:
            if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                self._hold(info["return_value"])
                errand.check()

        errand.take(self)
        self._deadline = deadline
        try:
            errand.check()
            left = max(deadline - time.monotonic(), 0.001)
            timeout = httpx.Timeout(left, connect=min(self._connect_seconds, left))
            return self.client.request(method, path, content=content, timeout=timeout, extensions={"trace": watch})
        except httpx.ConnectTimeout:
            raise
        except httpx.TimeoutException as error:
            raise TimeoutError from error
        except httpx.TransportError:
            errand.check()
            raise
        finally:
            errand.take(None)

    def _hold(self, stream: Any) -> None:
        """Keep the connection, and let none of its reads go beyond the deadline of the request."""
        read = stream.read

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            received: bytes = read(max_bytes, left if timeout is None else min(left, timeout))
            return received

        stream.read = read_in_time
        self._stream = stream

    def cut(self) -> None:
        """Shut the connection down under whoever reads from it."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                # Not the method of an SSLSocket, which would pull the TLS state away from under the reader.
                socket.socket.shutdown(self._stream.get_extra_info("socket"), socket.SHUT_RDWR)


class Courier:
    """Sends requests to one server. Thread-safe; belongs to the process that made it.

    Args:
        url: of the server; requests have the rest of the path. A user and password in it are sent.
        headers: of every request.
        max_connections: further requests wait for one that is free.
        connect_seconds: until a server that does not answer at all is given up.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str], max_connections: int, connect_seconds: float) -> None:
        self.owner = os.getpid()
        address = httpx.URL(url)
        self._url = address.copy_with(userinfo=b"")  # or the client would log the password
        self._auth = (address.username, address.password) if address.userinfo else None
        self._headers = dict(headers)
        self._connect_seconds = connect_seconds
        # Made once: reading the certificates (SSL_CERT_FILE, or the usual ones) takes longer than a request.
        self._verify = httpx.create_ssl_context() if url.startswith("https:") else False
        self._changed = threading.Condition()
        self._idle: list[_Line] = []
        self._free = max_connections
        self._errands: set[_Errand] = set()
        self._closed = False

    def send(
        self, method: str, path: str, content: bytes = b"", *, seconds: float, cancel: Cancel | None = None
    ) -> httpx.Response:
        """Send a request and return the answer, read to its end.

        Raises:
            httpx.RequestError: no answer, or one that is no HTTP.
            TimeoutError: no connection was free, or the answer not complete, within ``seconds``.
            DroppedError: cancelled or closed.
        """
        deadline = time.monotonic() + seconds
        errand = _Errand(self._changed)
        with self._changed:
            self._errands.add(errand)
        if cancel is not None:
            cancel.add(errand.drop)
        try:
            line = self._take(errand, deadline)
            try:
                return line.send(errand, method, path, content, deadline)
            finally:
                self._give(line)
        finally:
            if cancel is not None:
                cancel.remove(errand.drop)
            with self._changed:
                self._errands.discard(errand)

    def _take(self, errand: _Errand, deadline: float) -> _Line:
        """The connection used last, a new one, or the first that gets free."""
        with self._changed:
            while not self._closed and not errand.dropped and self._free == 0:
                if not self._changed.wait(max(deadline - time.monotonic(), 0.0)) and self._free == 0:
                    raise TimeoutError
            if self._closed or errand.dropped:
                # The place that woke us is for somebody else.
                self._changed.notify()
                raise DroppedError
            self._free -= 1
            return self._idle.pop() if self._idle else self._new_line()

    def _new_line(self) -> _Line:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client = httpx.Client(
            base_url=self._url,
            auth=self._auth,
            headers=self._headers,
            verify=self._verify,
            limits=limits,
            trust_env=False,
        )
        return _Line(client, self._connect_seconds)

    def _give(self, line: _Line) -> None:
        with self._changed:
            self._free += 1
            if not self._closed:
                self._idle.append(line)
                self._changed.notify()
                return
        line.client.close()

    def close(self) -> None:
        """Drop every request and close every connection. A forked process leaves its parent's alone."""
        if self.owner != os.getpid():
            return
        with self._changed:
            self._closed = True
            errands = list(self._errands)
            idle, self._idle = self._idle, []
        for errand in errands:
            errand.drop()
        for line in idle:
            line.client.close()


def retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks to wait; its other form, a date, is not understood."""
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0
