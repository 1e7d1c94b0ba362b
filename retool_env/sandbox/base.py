"""The sandbox contract: run one untrusted program, say truthfully how it ended.

``run`` is synchronous and thread-safe; a caller who wants many programs at once uses threads. The status comes
from the operating system (exit code, signal, limits), never from what the program printed. CPU seconds are the
limit that decides; the wall clock is a backstop for programs that sleep or block. Only ``sandbox_error`` says
nothing about the program and may be retried; ``fault`` then says what failed.

Left out: how programs are kept apart (each backend's own page) and what a model gets to read of a result (``tools``).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from retool_env.errors import UsageError

__all__ = [
    "Cancel",
    "Fault",
    "Limits",
    "Mode",
    "RunResult",
    "RunStatus",
    "Sandbox",
    "Session",
    "check_files",
    "check_relative",
]

Mode = Literal["script", "notebook"]
MIN_SECONDS = 0.05
_LONGEST_PART = 255

Fault = Literal["", "busy", "setup", "lost", "closed", "unavailable", "protocol"]
"""Why a run ended as ``sandbox_error``: the queue was full; isolation could not be set up; what ran the program died;
the sandbox was closed; it failed so often that it is not tried for a while; it answered something unintelligible."""


class RunStatus(StrEnum):
    """How a run ended."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    CANCELLED = "cancelled"
    SANDBOX_ERROR = "sandbox_error"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use.

    Attributes:
        cpu_seconds: processor time of the program, its set-up and the children it waited for; the limit that
            decides in deterministic mode. At least 0.05, because starting costs some milliseconds.
        wall_seconds: wall-clock backstop, counted from dispatch. Time in which the program wanted a processor and
            the machine was too busy to give it one does not count, up to ten times the limit.
        memory_mb: address space in MiB beyond what the warm interpreter already has. If the program may start others,
            also what all of them hold together, but for sessions and runs with ``fetch``.
        output_bytes: bytes kept of each of stdout and stderr, half from the start and half from the end.
        stop_bytes: a program that writes more than this to one of them is stopped.
        disk_mb: size in MiB of the private memory file system it may write to, in addition to ``memory_mb``.
        subprocesses: whether it may start other processes. Threads are always allowed.

    Raises:
        UsageError: a limit that cannot work.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 20.0
    memory_mb: int = 512
    output_bytes: int = 64 * 1024
    stop_bytes: int = 8 * 1024 * 1024
    disk_mb: int = 64
    subprocesses: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("cpu_seconds", MIN_SECONDS),
            ("wall_seconds", MIN_SECONDS),
            ("memory_mb", 1),
            ("output_bytes", 1),
            ("stop_bytes", 1),
            ("disk_mb", 1),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise UsageError(f"sandbox limit {name}={value}: must be a finite number, at least {least}")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What one run left behind.

    Attributes:
        status: how it ended.
        stdout: what the program printed, decoded as UTF-8 with bad bytes replaced; head and tail with a marker
            in between when it was longer than the limit.
        stderr: the same for standard error; an uncaught exception's traceback, trimmed to the program's frames. For
            ``sandbox_error`` and ``cancelled`` what went wrong with the sandbox.
        exit_code: the program's exit code, ``None`` when a signal ended it or it never ran.
        signal: number of the signal that ended it, ``None`` otherwise.
        cpu_seconds: processor time used.
        wall_seconds: from dispatch to the end of the program, without waiting in a queue.
        queue_seconds: waiting for a free place before that.
        max_rss_mb: largest resident memory in MiB, the warm interpreter's own included; 0 where it is not known.
        truncated: a part of stdout or stderr was left out, here or by the server that ran the program, or a file of
            ``fetch`` for its size.
        files: the files that were asked for by ``fetch`` and exist, as bytes; 32 MiB in all, and what does not fit
            behind those before it is left out.
        fault: for ``sandbox_error``, what failed.
        tier: how strongly the program was isolated, as the backend names it.
    """

    status: RunStatus
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    signal: int | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    queue_seconds: float = 0.0
    max_rss_mb: float = 0.0
    truncated: bool = False
    files: Mapping[str, bytes] = field(default_factory=dict)
    fault: Fault = ""
    tier: str = ""


class Cancel:
    """A switch that ends runs from another thread: pass it to ``run``, call it once. Thread-safe, cannot be undone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def __call__(self) -> None:
        """Cancel every run that this was passed to, now or later."""
        with self._lock:
            self._cancelled = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def add(self, action: Callable[[], None]) -> None:
        """Call ``action`` when cancelled; at once if that has happened already."""
        with self._lock:
            if not self._cancelled:
                self._actions.append(action)
                return
        action()

    def remove(self, action: Callable[[], None]) -> None:
        """Forget ``action``; it may be running in another thread at this moment."""
        with self._lock:
            if action in self._actions:
                self._actions.remove(action)


def check_relative(paths: Iterable[str]) -> None:
    """File names must stay inside the program's directory. Raises :class:`UsageError` naming the bad one."""
    for name in paths:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or len(name.encode()) > 1024:
            raise UsageError(f"file name {name!r}: must be a relative path without '..', at most 1024 bytes")
        if max(len(part.encode()) for part in path.parts) > _LONGEST_PART:
            raise UsageError(f"file name {name!r}: no part of it may have more than {_LONGEST_PART} bytes")


def check_files(names: Iterable[str]) -> None:
    """Names that can lie beside each other in the program's directory: :func:`check_relative`, and none is the folder
    of another one. Raises :class:`UsageError` naming the bad ones."""
    names = list(names)
    check_relative(names)
    paths = {PurePosixPath(name): name for name in names}
    for path, name in paths.items():
        for parent in path.parents:
            if parent in paths:
                raise UsageError(f"files {paths[parent]!r} and {name!r}: the first cannot be a folder too; rename one")


class Session(Protocol):
    """Several programs, cell by cell, in one interpreter state. One cell at a time; thread-safe.

    A cell that is stopped, crashes or exits takes nothing with it: the next one continues from the state after the
    last cell that ended ``ok`` or ``error``, its files apart, which stay as they are.
    """

    def run(
        self,
        code: str,
        *,
        mode: Mode = "notebook",
        limits: Limits | None = None,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
        cancel: Cancel | None = None,
    ) -> RunResult:
        """Run one cell. A session that is lost or closed answers every further cell with ``sandbox_error``."""
        ...

    def close(self) -> None:
        """End every process of the session and free its place."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Sandbox(Protocol):
    """Runs programs. Thread-safe; ``close`` ends every process it started."""

    def run(
        self,
        code: str,
        *,
        mode: Mode = "script",
        limits: Limits | None = None,
        stdin: str = "",
        files: Mapping[str, bytes] | None = None,
        fetch: Sequence[str] = (),
        seed: int = 0,
        cancel: Cancel | None = None,
        key: str = "",
    ) -> RunResult:
        """Run ``code`` in a fresh interpreter state and return how it ended. Never raises for what a program does.

        Args:
            code: the program.
            mode: ``script`` as a Python file; ``notebook`` also prints the value of a last expression unless None.
            limits: what it may use.
            stdin: its standard input.
            files: put into its working directory before it starts, by relative path.
            fetch: relative paths to read back afterwards; what is missing or no regular file is left out, and so, with
                ``truncated``, is what does not fit into 32 MiB.
            seed: of ``random`` and of numpy's global generator.
            cancel: ends the run, or takes it out of the queue, when called.
            key: whose run it is; places are shared fairly between keys.

        Raises:
            UsageError: a file name that is not relative, or two that exclude each other.
        """
        ...

    def open_session(self, *, limits: Limits | None = None, seed: int = 0, key: str = "") -> Session:
        """A fresh interpreter that keeps its state from cell to cell. Raises :class:`SandboxError`."""
        ...

    def health(self) -> RunResult:
        """Run a one-line program through the whole path."""
        ...

    def close(self) -> None:
        """Stop every process: runs in flight return ``cancelled``, later ones ``sandbox_error``."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
