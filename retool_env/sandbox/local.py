"""The sandbox on this machine: every program in a fresh fork of a warm interpreter.

``LocalSandbox`` admits a bounded number of programs at a time, hands each to a zygote (see ``zygote``) and returns
how it ended. Waiting for admission is not counted in ``wall_seconds``. Programs are never executed in the caller's
process. Zygotes start at the first ``run`` and are replaced when they die; an instance that is inherited through a
fork starts its own.

**This is not yet a security boundary**: the program still sees the file system and the network of its user. Against
accidents it holds (limits, process groups, orphans, and a user id of its own where the caller is root); against an
attacker it does not. Left out: namespaces, seccomp, sessions, files in and out.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import weakref
from types import TracebackType
from typing import NoReturn, Self

from retool_env.errors import SandboxError, UsageError
from retool_env.sandbox.base import Limits, Mode, RunResult, RunStatus
from retool_env.sandbox.exchange import Job, execute
from retool_env.sandbox.images import Image
from retool_env.sandbox.process import Keeper, ZygoteGoneError

__all__ = ["LocalSandbox"]


class _Crew:
    """What belongs to one process: admission and the zygotes. A forked process must not use its parent's."""

    def __init__(self, *, workers: int, image: Image, max_running: int, python: str) -> None:
        self.owner = os.getpid()
        self.slots = threading.BoundedSemaphore(max_running)
        self._keepers = [Keeper(image=image, python=python) for _ in range(workers)]
        self._turns = itertools.count()

    def next_keeper(self) -> Keeper:
        return self._keepers[next(self._turns) % len(self._keepers)]

    def close(self) -> None:
        """End the zygotes, unless they are those of the process that forked us."""
        if self.owner == os.getpid():
            for keeper in self._keepers:
                keeper.close()


def _serve(keeper: Keeper, job: Job) -> RunResult:
    zygote = keeper.get()
    try:
        return execute(zygote, job)
    except SandboxError:
        keeper.retire(zygote)
        raise


class LocalSandbox:
    """Runs programs in forked children of warm interpreters. Linux only.

    Args:
        workers: number of zygotes; one forks several hundred programs per second.
        image: what is imported in advance. Both can import the same modules; ``science`` starts bigger and saves the
            third of a second that numpy and sympy take.
        max_running: programs running at the same time; twice the usable processors when not given.
        python: the interpreter that runs the programs; this one when not given.
    """

    def __init__(
        self, *, workers: int = 1, image: Image = "light", max_running: int | None = None, python: str | None = None
    ) -> None:
        if sys.platform != "linux":
            raise UsageError(f"the local sandbox needs Linux, this is {sys.platform!r}; use a remote sandbox")
        if workers < 1 or (max_running is not None and max_running < 1):
            raise UsageError(f"workers and max_running must be at least 1, got {workers} and {max_running}")
        self._workers = workers
        self._image: Image = image
        self._max_running = max_running or 2 * len(os.sched_getaffinity(0))
        self._python = python or sys.executable
        self._closed = False
        self._renewal = threading.Lock()
        self._crew = self._new_crew()

    def _new_crew(self) -> _Crew:
        crew = _Crew(workers=self._workers, image=self._image, max_running=self._max_running, python=self._python)
        # Also at interpreter exit, and when the last reference goes.
        weakref.finalize(self, crew.close)
        return crew

    def _own_crew(self) -> _Crew:
        if self._crew.owner != os.getpid():
            with self._renewal:
                if self._crew.owner != os.getpid():
                    self._crew = self._new_crew()
        return self._crew

    def run(
        self, code: str, *, mode: Mode = "script", limits: Limits | None = None, stdin: str = "", seed: int = 0
    ) -> RunResult:
        """Run ``code`` in a fresh interpreter state and return how it ended. Never raises for what a program does."""
        job = Job(code=code, mode=mode, limits=limits or Limits(), stdin=stdin, seed=seed)
        crew = self._own_crew()
        with crew.slots:
            return self._run_admitted(crew, job)

    def _run_admitted(self, crew: _Crew, job: Job) -> RunResult:
        closed_before = self._closed
        keeper = crew.next_keeper()
        try:
            try:
                return _serve(keeper, job)
            except ZygoteGoneError:
                # It died idle and the program was never started, so this one repetition is safe.
                return _serve(keeper, job)
        except (SandboxError, OSError) as error:
            cancelled = self._closed and not closed_before
            status = RunStatus.CANCELLED if cancelled else RunStatus.SANDBOX_ERROR
            return RunResult(status=status, stderr=str(error))

    def health(self) -> RunResult:
        """Run a one-line program through the whole path."""
        return self.run("print('ok')")

    def close(self) -> None:
        """Stop every process; programs in flight end as ``cancelled``, later ones as ``sandbox_error``."""
        self._closed = True
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a LocalSandbox cannot be pickled: send its name and call open_sandbox(name) on the other side")
