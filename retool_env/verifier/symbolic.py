"""One worker process that does algebra, and its replacement when it hangs or dies.

Purpose: let sympy and math-verify decide what needs algebra without their imports, hangs, signals or memory ever
reaching the caller.
Contract: :meth:`SymbolicWorker.ask` is thread-safe and never raises: it returns a :class:`Reply` with a reason word
(``equal``, ``different``, ``unparsable``, ``too_big``, ``timeout``, ``crash``, ``outage``). The process starts on the
first call, is a fresh interpreter that imports neither torch nor the caller's main module, serves one question at a
time, and ends with this one. The clock of a question runs from its dispatch, not while it queues. A question past its
time is killed (SIGKILL), first by the worker itself (:mod:`.symbolic_worker`), and with the whole worker if that fails
too. ``outage`` means that the worker cannot be started or died on the same question twice; after three failed starts in
a row it is left alone for half a minute. A forked child of the caller starts a worker of its own.
Left out: several workers in parallel (:mod:`.pool`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

__all__ = ["WORKER_SCRIPT", "Reply", "SymbolicWorker"]

WORKER_SCRIPT = Path(__file__).with_name("symbolic_worker.py")
_START_SECONDS = 60.0
_GRACE_SECONDS = 0.4
_MAX_FAILED_STARTS = 3
_REST_SECONDS = 30.0


class _WorkerGoneError(Exception):
    """The process ended, or answered with something that is not the protocol."""


class _ExpiredError(Exception):
    """No answer came in time."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came of a question: the reason word, and the seconds from its dispatch on."""

    verdict: str
    seconds: float = 0.0


class SymbolicWorker:
    """One worker process and the lock that lends it to one caller at a time."""

    def __init__(self, script: Path = WORKER_SCRIPT) -> None:
        self._script = script
        self._forget()

    def ask(self, pred: str, gold: str, *, seconds: float, plain: bool = False) -> Reply:
        """Whether two expressions are equal; ``plain`` asks math-verify with its defaults about a whole response."""
        with self._lock:
            for _ in range(2):
                if not self._ensure_started():
                    break
                dispatched = time.monotonic()
                try:
                    verdict = self._exchange({"pred": pred, "gold": gold, "seconds": seconds, "plain": plain}, seconds)
                except _ExpiredError:
                    self._kill()
                    verdict = "timeout"
                except _WorkerGoneError:
                    self._kill()
                    continue
                except BaseException:
                    # Interrupted in the middle of an answer: nobody could tell whose answer comes next.
                    self._kill()
                    raise
                return Reply(verdict=verdict, seconds=time.monotonic() - dispatched)
            return Reply(verdict="outage")

    @property
    def pid(self) -> int | None:
        """The process that watches the computing child; None when none was started."""
        process = self._process
        return process.pid if process else None

    def warm_up(self) -> bool:
        """Start the process unless it runs; whether it runs."""
        with self._lock:
            return self._ensure_started()

    def close(self) -> None:
        """End the process; a later question starts another one."""
        with self._lock:
            self._kill()

    def after_fork(self) -> None:
        """Let go of the parent's worker: its answers belong to the parent, and its lock may be held for ever."""
        process = self._process
        self._forget()
        if process:
            _close_pipes(process)
            # Not ours to wait for; without a return code the destructor would try.
            process.returncode = 0

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._serial = 0
        self._failed_starts = 0
        self._rest_until = 0.0

    def _ensure_started(self) -> bool:
        if self._process and _alive(self._process.pid):
            return True
        self._kill()
        if time.monotonic() < self._rest_until:
            return False
        try:
            self._start()
        except (OSError, _WorkerGoneError, _ExpiredError):
            self._kill()
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                self._rest_until = time.monotonic() + _REST_SECONDS
            return False
        self._failed_starts = 0
        return True

    def _start(self) -> None:
        # Imported here because an integer-only run never gets this far, and the package must be cheap to import.
        import subprocess

        self._pending = b""
        self._process = subprocess.Popen(
            # -P keeps the script's folder, and with it our module names, off the worker's import path.
            [sys.executable, "-P", str(self._script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        if self._read_message(time.monotonic() + _START_SECONDS).get("ready") is not True:
            raise _WorkerGoneError

    def _exchange(self, request: dict[str, Any], seconds: float) -> str:
        import json

        assert self._process is not None
        assert self._process.stdin is not None
        self._serial += 1
        line = json.dumps({"id": self._serial, **request}).encode() + b"\n"
        deadline = time.monotonic() + seconds + _GRACE_SECONDS
        try:
            self._process.stdin.write(line)
        except OSError as error:
            raise _WorkerGoneError from error
        reply = self._read_message(deadline)
        if reply.get("id") != self._serial:
            raise _WorkerGoneError
        return str(reply.get("verdict"))

    def _read_message(self, deadline: float) -> dict[str, Any]:
        import json

        assert self._process is not None
        assert self._process.stdout is not None
        poller = select.poll()  # not select.select(), which fails once a trainer has more than 1024 files open
        poller.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._pending:
            if not poller.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
                raise _ExpiredError
            chunk = os.read(self._process.stdout.fileno(), 4096)
            if not chunk:
                raise _WorkerGoneError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise _WorkerGoneError from error
        if not isinstance(message, dict):
            raise _WorkerGoneError
        return message

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # The group, because the child that computes must not outlive the process that watches it.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _close_pipes(process)


def _alive(pid: int) -> bool:
    # Popen.poll() would reap the process, and its number could be somebody else's when the group is killed.
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
