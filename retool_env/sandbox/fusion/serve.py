"""``retool sandbox serve``: a local sandbox behind the SandboxFusion server, from start to a clean end.

One process, one event loop, one sandbox. SIGTERM and SIGINT stop it: programs in flight are ended and told to their
clients as ``SandboxError``, and the exit code is 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import uvicorn

from retool_env.errors import SandboxError, UsageError
from retool_env.sandbox.base import RunResult, RunStatus, Sandbox
from retool_env.sandbox.fusion.server import Gate, check_bind, make_app
from retool_env.sandbox.fusion.service import Bounds, Service
from retool_env.sandbox.local import LocalSandbox

__all__ = ["ServeOptions", "serve"]

_SPARE_THREADS = 16
_GRACE_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Everything that can be set.

    Attributes:
        host: address to listen at.
        port: 0 for any free one.
        image: what is imported before programs run; see :class:`~retool_env.sandbox.local.LocalSandbox`.
        max_running: programs at the same time.
        max_queue: programs waiting; further ones are answered with status 429.
        tokens: see :class:`~retool_env.sandbox.fusion.server.Gate`.
        allow_anonymous: serve others than this machine without a token.
        max_body_mb: MiB of one request.
        bounds: what one request may ask for.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    image: Literal["auto", "light", "science"] = "auto"
    max_running: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    max_queue: int = 1024
    tokens: tuple[str, ...] = ()
    allow_anonymous: bool = False
    max_body_mb: int = 64
    bounds: Bounds = field(default_factory=Bounds)


def serve(options: ServeOptions) -> None:
    """Serve until a signal comes.

    Raises:
        UsageError: an address that cannot be listened at, or must not be without a token.
        SandboxError: programs cannot be run on this machine.
    """
    check_bind(options.host, tokens=options.tokens, allow_anonymous=options.allow_anonymous)
    with _listen(options) as listener, _open(options) as sandbox:
        health = sandbox.health()
        if health.status is not RunStatus.OK:
            raise SandboxError(f"the sandbox does not work here: {health.stderr.strip()}")
        threads = options.max_running + options.max_queue + _SPARE_THREADS
        with ThreadPoolExecutor(threads, thread_name_prefix="sandbox") as pool:
            gate = Gate(tokens=options.tokens, max_body_bytes=options.max_body_mb << 20)
            app = make_app(Service(sandbox, options.bounds), gate, pool)
            config = uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
            server = _Server(config, sandbox)
            with _signals_stop(server):
                # Not before: who reads it may stop the server at once.
                print(_greeting(options, listener, health), flush=True)
                server.run(sockets=[listener])


def _open(options: ServeOptions) -> Sandbox:
    return LocalSandbox(image=options.image, max_running=options.max_running, max_queue=options.max_queue)


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot listen at {options.host} port {options.port}: {reason}; choose another") from error
    # Connections inherit it. asyncio sets it too, but not for a listener made this way; without it an answer, which
    # is sent as head and body, waits 40 ms for the client's delayed acknowledgement of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _greeting(options: ServeOptions, listener: socket.socket, health: RunResult) -> str:
    host, port = listener.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    bounds = options.bounds
    return (
        f"serving {where} tier={health.tier or 'unknown'} image={options.image} "
        f"max_running={options.max_running} max_queue={options.max_queue} max_seconds={bounds.max_seconds:g} "
        f"max_memory_mb={bounds.max_memory_mb} max_body_mb={options.max_body_mb} "
        f"token={'required' if options.tokens else 'none'} pid={os.getpid()}"
    )


class _Server(uvicorn.Server):
    """Ends the programs in flight before it waits for their requests."""

    def __init__(self, config: uvicorn.Config, sandbox: Sandbox) -> None:
        super().__init__(config)
        self._sandbox = sandbox

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self.servers:
            listener.close()
        await asyncio.to_thread(self._sandbox.close)
        await super().shutdown(sockets)


@contextlib.contextmanager
def _signals_stop(server: uvicorn.Server) -> Iterator[None]:
    """From here on, also before uvicorn listens to signals, and when it raises once more the one that stopped it."""

    def stop(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
