"""One server as its owner sees it: started, waited for, watched, stopped with everything below it.

A server is any program that serves HTTP and answers some ``GET`` with 200 when it can work; what it prints goes to a
log file. It runs below :mod:`agents.serve.guard`, so nothing of it stays behind, whichever way this process ends.

Left out: starting it again (``supervisor``), and what SGLang's command line looks like (``command``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from retool_env.errors import EngineError, UsageError

__all__ = ["ServerProcess", "ServerSpec"]

_GUARD: Final = Path(__file__).with_name("guard.py")
_POLL_SECONDS, _PROGRESS_SECONDS = 0.25, 10.0
_SLACK_SECONDS = 15.0
_TAIL_BYTES, _TAIL_LINES = 65536, 25


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """What to start.

    Attributes:
        command: the program and its arguments.
        host: the address that it will listen at.
        port: the same.
        log: file that its output is appended to; folders are made.
        env: variables on top of this process's environment.
        ready_path: what it answers with 200 as soon as it can work.
        grace_seconds: how long it may take to finish after a SIGTERM, before it is killed.
    """

    command: tuple[str, ...]
    host: str
    port: int
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/health"
    grace_seconds: float = 10.0

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class ServerProcess:
    """One run of a server; it can be started again after it ended.

    ``with ServerProcess(spec) as server:`` starts it, waits until it is ready (ten minutes at most) and stops it at
    the end. For another limit, or to look in between, call ``start``, ``wait_ready`` and ``stop``.
    """

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._group: int | None = None  # of the processes that may still have to be ended
        self._began = 0  # where the log of this run starts

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self.spec.url

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the last run, 128 + the signal's number when a signal ended it; ``None`` before and while it runs."""
        code = None if self._process is None else self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def start(self) -> None:
        """Start it. Raises :class:`UsageError` when the port is taken or the log cannot be written."""
        assert not self.alive, "already started"
        _demand_free(self.spec.host, self.spec.port)
        command = [sys.executable, "-I", str(_GUARD), str(os.getpid()), str(self.spec.grace_seconds)]
        try:
            self.spec.log.parent.mkdir(parents=True, exist_ok=True)
            log = self.spec.log.open("ab")
        except OSError as error:
            raise UsageError(f"cannot write the log {str(self.spec.log)!r}: {error.strerror}") from error
        with log:
            self._began = log.tell()
            # In a session of its own: a Ctrl-C at the terminal is for this process, which then stops the server.
            self._process = subprocess.Popen(
                [*command, *self.spec.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.spec.env},
                start_new_session=True,
            )
        self._group = self._process.pid

    def wait_ready(
        self,
        seconds: float = 600.0,
        *,
        progress: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> bool:
        """Wait until it can work; False when ``stop`` was set first. Raises :class:`EngineError` when it ends or takes
        longer than ``seconds``, with the last lines of its log. ``progress`` is told something every ten seconds."""
        began = told = time.monotonic()
        stop = stop or threading.Event()
        while self.alive:
            if self.answers(self.spec.ready_path) == 200:
                return True
            now = time.monotonic()
            if now - began > seconds:
                raise EngineError(f"{self.url} was not ready after {seconds:.0f} s; {self._last_words()}")
            if progress is not None and now - told >= _PROGRESS_SECONDS:
                told = now
                progress(f"{self.url} is starting, {now - began:.0f} s: {(self.tail(1) or ['no output yet'])[0]}")
            if stop.wait(_POLL_SECONDS):
                return False
        raise EngineError(f"{self.url} ended with code {self.exit_code} before it was ready; {self._last_words()}")

    def answers(self, path: str, *, seconds: float = 5.0) -> int | None:
        """HTTP status of a GET, or ``None`` without an answer in time."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=seconds, trust_env=False).status_code
        except httpx.HTTPError:
            return None

    def stop(self) -> None:
        """End it and all of its processes, with its grace; nothing happens when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its processes at once."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(self.spec.grace_seconds + _SLACK_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        group, self._group = self._group, None
        if group is not None:  # what the guard has left, which ends everything itself unless it is killed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self._process.wait()

    def tail(self, num_lines: int = _TAIL_LINES) -> list[str]:
        """The last lines that this run has printed, without empty ones."""
        try:
            with self.spec.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._began, size - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-num_lines:]

    def _last_words(self) -> str:
        lines = "\n".join(f"    {line}" for line in self.tail())
        return f"the whole log is {self.spec.log}, its last lines:\n{lines}"


def _demand_free(host: str, port: int) -> None:
    """A server that finds its port taken says so a minute later, and another one would answer in its place."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(f"cannot listen at {host} port {port}: {error.strerror}; choose another --port") from error
