"""The SandboxFusion server over HTTP: who may ask, how much, and what becomes of a request whose client is gone.

``make_app`` puts a :class:`~retool_env.sandbox.fusion.service.Service` behind the endpoints ``/run_code``,
``/run_jupyter``, ``/v1/ping`` and ``/metrics``. The event loop only moves bytes; each request is parsed, run and
answered in a thread of its own, of which there are more than the sandbox has places, so the one bounded queue is the
sandbox's. A client that closes its connection ends its run.

Requests of web pages are refused (they carry ``Origin``): a page must not reach a sandbox on its reader's machine.
Left out: TLS, which a proxy adds, and limits on how slowly a client sends.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from retool_env.errors import UsageError
from retool_env.sandbox.base import Cancel
from retool_env.sandbox.fusion.metrics_text import render
from retool_env.sandbox.fusion.service import Reply, Service
from retool_env.sandbox.fusion.wire import OWN_HEADER

__all__ = ["Gate", "check_bind", "make_app"]

_OWN = {OWN_HEADER: "1"}
_PATIENCE = 4


class _Work(Protocol):
    def __call__(self, body: bytes, *, key: str, cancel: Cancel) -> Reply: ...


class Gate:
    """Who may ask, and how much.

    Args:
        tokens: one of them must come as ``Authorization: Bearer``; with none everybody is let in.
        max_body_bytes: a longer body is refused with 413.
    """

    def __init__(self, *, tokens: Sequence[str], max_body_bytes: int) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._max_body_bytes = max_body_bytes

    def admit(self, request: Request) -> str:
        """The key under which the sandbox shares its places fairly: the token's number, or the client's address."""
        if "origin" in request.headers:
            raise HTTPException(403, "requests of web pages are not answered")
        if not self._tokens:
            return request.client.host if request.client else ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Every token is compared in constant time, so that the time tells nothing about any of them.
        matches = [hmac.compare_digest(token, given.strip().encode()) for token in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise HTTPException(
                401, "a valid token is needed: Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"}
            )
        return f"token-{matches.index(True)}"

    async def body(self, request: Request) -> bytes:
        """The request's body."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            raise HTTPException(422, f"the body is {kind}, not application/json")
        chunks: list[bytes] = []
        length = 0
        async for chunk in request.stream():
            length += len(chunk)
            if length <= self._max_body_bytes:
                chunks.append(chunk)
            elif length > _PATIENCE * self._max_body_bytes:
                break
            else:
                # Read on and forget: a client that is cut off while it sends may never see the answer.
                chunks.clear()
        if length > self._max_body_bytes:
            message = f"the body is longer than {self._max_body_bytes} bytes"
            raise HTTPException(413, message, {"connection": "close"})
        return b"".join(chunks)


class _Endpoints:
    def __init__(self, service: Service, gate: Gate, threads: ThreadPoolExecutor) -> None:
        self._service = service
        self._gate = gate
        self._threads = threads
        self._answers: Counter[str] = Counter()

    async def run_code(self, request: Request) -> Response:
        return await self._answer(request, self._service.run_code)

    async def run_jupyter(self, request: Request) -> Response:
        return await self._answer(request, self._service.run_jupyter)

    async def ping(self, _: Request) -> Response:
        return Response(b'"pong"', media_type="application/json", headers=_OWN)

    async def metrics(self, request: Request) -> Response:
        self._gate.admit(request)
        text = render("retool_sandbox", self._service.metrics()) + render("retool_server", {"answers": self._answers})
        return Response(text, media_type="text/plain; version=0.0.4", headers=_OWN)

    async def refuse(self, _: Request, error: Exception) -> Response:
        """The answer to a request that does not reach the sandbox."""
        assert isinstance(error, HTTPException)
        self._answers[str(error.status_code)] += 1
        body = json.dumps({"detail": error.detail})
        return Response(body, error.status_code, {**_OWN, **(error.headers or {})}, "application/json")

    async def _answer(self, request: Request, work: _Work) -> Response:
        key = self._gate.admit(request)
        try:
            body = await self._gate.body(request)
        except ClientDisconnect as error:
            # Nobody reads this answer; without it a traceback stands in the log and looks like a fault of ours.
            raise HTTPException(400, "the client went away while it sent its body") from error
        reply = await self._work(request, partial(work, body, key=key))
        self._answers[str(reply.code)] += 1
        return Response(reply.body, reply.code, {**_OWN, **reply.headers}, "application/json")

    async def _work(self, request: Request, work: Callable[..., Reply]) -> Reply:
        """Run in a thread; end the run when the client is gone or the server stops."""
        cancel = Cancel()
        # After the body the only message that can come is that the client has gone.
        gone = asyncio.ensure_future(request.receive())
        gone.add_done_callback(lambda _: cancel())
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, cancel=cancel))
        finally:
            # Also when this task is cancelled, because the server stops; after the end of the run it does nothing.
            gone.cancel()


def make_app(service: Service, gate: Gate, threads: ThreadPoolExecutor) -> Starlette:
    """The application. ``threads`` bounds the requests inside; it should exceed the sandbox's places and queue."""
    endpoints = _Endpoints(service, gate, threads)
    routes = [
        Route("/run_code", endpoints.run_code, methods=["POST"]),
        Route("/run_jupyter", endpoints.run_jupyter, methods=["POST"]),
        Route("/v1/ping", endpoints.ping),
        Route("/metrics", endpoints.metrics),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: endpoints.refuse})


def check_bind(host: str, *, tokens: Sequence[str], allow_anonymous: bool) -> None:
    """Raises :class:`UsageError` for an address that others can reach without a token."""
    if tokens or allow_anonymous or host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise UsageError(
            f"--host {host}: others can reach that address, so a token is needed; "
            "give --token-env NAME, or --allow-anonymous to let everybody run programs"
        )
