"""The sandbox contract: run one untrusted program, say truthfully how it ended.

``run`` is synchronous and thread-safe; a caller who wants many programs at once uses threads. The status comes
from the operating system (exit code, signal, limits), never from what the program printed. CPU seconds are the
limit that decides; the wall clock is a backstop for programs that sleep or block. Only ``sandbox_error`` says
nothing about the program and may be retried.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from retool_env.errors import UsageError

__all__ = ["Limits", "Mode", "RunResult", "RunStatus", "Sandbox"]

Mode = Literal["script", "notebook"]
MIN_SECONDS = 0.05


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
        wall_seconds: wall-clock backstop, counted from the moment the program starts.
        memory_mb: address space in MiB beyond what the warm interpreter already has.
        output_bytes: bytes kept of each of stdout and stderr; a program that writes more than four times as much is
            stopped.

    Raises:
        UsageError: a limit that cannot work.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 20.0
    memory_mb: int = 512
    output_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        for name, least in (
            ("cpu_seconds", MIN_SECONDS),
            ("wall_seconds", MIN_SECONDS),
            ("memory_mb", 1),
            ("output_bytes", 1),
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
        cpu_seconds: processor time used.
        wall_seconds: from start to end of the program, without waiting in a queue.
    """

    status: RunStatus
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@runtime_checkable
class Sandbox(Protocol):
    """Runs programs. Thread-safe; ``close`` ends every process it started."""

    def run(
        self, code: str, *, mode: Mode = "script", limits: Limits | None = None, stdin: str = "", seed: int = 0
    ) -> RunResult:
        """Run ``code`` in a fresh interpreter state and return how it ended. Never raises for what a program does."""
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
