"""The sandbox on this machine: every program in a fork of a warm interpreter, in a box of its own.

``LocalSandbox`` admits a bounded number of programs at a time (``admission``), hands each to a zygote (``box``) and
returns how it ended. Programs are never executed in the caller's process. Zygotes start when they are first needed
and are replaced when they die (``keeper``); an instance that is inherited through a fork starts its own.

How strongly programs are isolated is the *tier*, best first: ``T1`` namespaces, system call filter, Landlock and
limits; ``T1'`` without Landlock; ``T2`` without namespaces; ``T3`` limits only, for which ``unsafe=True`` must be
said. Without a wish it is the best of T1, T1' and T2 that the host allows; a host that allows none is an error, never
a weaker sandbox. What each tier protects against is told in ``docs/sandbox.md``.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, NoReturn, Self

from retool_env.errors import SandboxError, UsageError
from retool_env.sandbox.base import Cancel, Fault, Limits, Mode, RunResult, RunStatus, check_files, check_relative
from retool_env.sandbox.crew import Crew, Plan, tiers_of
from retool_env.sandbox.exchange import Job, execute
from retool_env.sandbox.keeper import Keeper, UnavailableError
from retool_env.sandbox.metrics import Recorder, SandboxMetrics
from retool_env.sandbox.process import ZygoteGoneError
from retool_env.sandbox.session import Host, run_and_fetch

__all__ = ["LocalSandbox", "LocalSession"]

_CORES_PER_ZYGOTE: Final = 4
_PLACES_PER_CORE: Final = 1.5
_QUEUE_PER_PLACE: Final = 64
_LEAST_QUEUE: Final = 4096
_MOST_SPARES: Final = 8


def _failed(fault: Fault, message: str) -> RunResult:
    return RunResult(status=RunStatus.SANDBOX_ERROR, stderr=message, fault=fault)


class LocalSandbox:
    """Runs programs in forked children of warm interpreters. Linux only.

    Args:
        image: what is imported in advance: ``light`` the standard library's usual modules, ``science`` numpy, sympy
            and scipy too, ``auto`` (both, chosen by what a program's text mentions).
        tier: the isolation wanted, exactly; the best that this host allows but for T3 when not given.
        unsafe: allow tier ``T3``, which does not isolate.
        max_running: programs running at the same time; one and a half times the usable processors when not given.
        max_queue: programs waiting beyond that, before new ones are turned away as ``busy``.
        spares: boxes forked ahead of time in each zygote while it is quiet; they save up to half of the latency of a
            single program.
        workers: zygotes for each image; one per four processors when not given.
        python: the interpreter that runs the programs; this one when not given.

    Raises:
        UsageError: a size below 1, an unknown tier, ``T3`` without ``unsafe``, or not Linux.
    """

    def __init__(
        self,
        *,
        image: Literal["auto", "light", "science"] = "auto",
        tier: str | None = None,
        unsafe: bool = False,
        max_running: int | None = None,
        max_queue: int | None = None,
        spares: int | None = None,
        workers: int | None = None,
        python: str | None = None,
    ) -> None:
        if sys.platform != "linux":
            raise UsageError(f"the local sandbox needs Linux, this is {sys.platform!r}; use a remote sandbox")
        cores = len(os.sched_getaffinity(0))
        for name, value, least in (
            ("max_running", max_running, 1),
            ("max_queue", max_queue, 0),
            ("spares", spares, 0),
            ("workers", workers, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name}={value}: must be at least {least}")
        places = max_running or math.ceil(_PLACES_PER_CORE * cores)
        self._plan = Plan(
            image=image,
            workers=workers or max(1, cores // _CORES_PER_ZYGOTE),
            places=places,
            most_waiting=max(_LEAST_QUEUE, _QUEUE_PER_PLACE * places) if max_queue is None else max_queue,
            spares=min(_MOST_SPARES, cores) if spares is None else spares,
            tiers=tiers_of(tier, unsafe),
            python=python or sys.executable,
        )
        self._closed = False
        self._renewal = threading.Lock()
        self._recorder = Recorder()
        self._crew = self._new_crew()

    def _new_crew(self) -> Crew:
        crew = Crew(self._plan)
        # Also at interpreter exit, and when the last reference goes.
        weakref.finalize(self, crew.close)
        return crew

    def _own_crew(self) -> Crew:
        if self._crew.owner != os.getpid():
            with self._renewal:
                if self._crew.owner != os.getpid():
                    self._crew = self._new_crew()
        return self._crew

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

        Raises :class:`UsageError` for a file name that is not relative, and when this host refuses the isolation.

        >>> with LocalSandbox() as sandbox:
        ...     good = sandbox.run("6 * 7", mode="notebook")
        ...     bad = sandbox.run("1 / 0")
        >>> good.stdout, bad.status.value, bad.stderr.splitlines()[-1]
        ('42\\n', 'error', 'ZeroDivisionError: division by zero')
        """
        check_files(files or {})
        check_relative(fetch)
        job = Job(
            code=code,
            mode=mode,
            limits=limits or Limits(),
            stdin=stdin,
            files=files or {},
            fetch=fetch,
            seed=seed,
        )
        crew = self._own_crew()
        keeper = crew.keeper_for(code)
        return self._admit(crew, key, cancel, lambda: self._serve(keeper, job, cancel))

    def _admit(self, crew: Crew, key: str, cancel: Cancel | None, work: Callable[[], RunResult]) -> RunResult:
        """Wait for a place, work there, give it back."""
        ticket, waited = crew.admission.enter(key, cancel)
        if ticket == "admitted":
            try:
                result = dataclasses.replace(self._guard(work), queue_seconds=waited)
            finally:
                crew.admission.leave()
        elif ticket == "cancelled":
            result = RunResult(status=RunStatus.CANCELLED, queue_seconds=waited)
        elif ticket == "busy":
            result = _failed("busy", f"the sandbox is busy: {crew.admission.waiting} programs are waiting already")
        else:
            result = RunResult(status=RunStatus.CANCELLED, queue_seconds=waited) if waited else self._is_closed()
        self._recorder.add(result)
        return result

    def _is_closed(self) -> RunResult:
        return _failed("closed", "the sandbox is closed")

    def _guard(self, work: Callable[[], RunResult]) -> RunResult:
        closed_before = self._closed
        try:
            return work()
        except UnavailableError as error:
            return _failed("unavailable", str(error))
        except (SandboxError, OSError) as error:
            if self._closed and not closed_before:
                return RunResult(status=RunStatus.CANCELLED, stderr=str(error))
            return _failed("closed" if self._closed else "lost", str(error))

    def _serve(self, keeper: Keeper, job: Job, cancel: Cancel | None) -> RunResult:
        """Try twice where the program was never started: the zygote died idle, or the box did not come up."""
        try:
            result = self._serve_once(keeper, job, cancel)
        except ZygoteGoneError:
            return self._serve_once(keeper, job, cancel)
        return self._serve_once(keeper, job, cancel) if result.fault == "setup" else result

    def _serve_once(self, keeper: Keeper, job: Job, cancel: Cancel | None) -> RunResult:
        zygote = keeper.get()
        try:
            result = (run_and_fetch if job.fetch else execute)(zygote, job, cancel)
        except SandboxError:
            keeper.retire(zygote)
            raise
        keeper.praise()
        return result

    def open_session(self, *, limits: Limits | None = None, seed: int = 0, key: str = "") -> LocalSession:
        """A fresh interpreter that keeps its state from cell to cell.

        ``limits`` bound every cell, and memory and disk the session as a whole. Raises :class:`SandboxError`.
        """
        crew = self._own_crew()
        job = Job(code="", mode="notebook", limits=limits or Limits(), seed=seed)
        keeper = crew.keeper_for("numpy")
        zygote = keeper.get()
        try:
            host = Host(zygote, job)
        except ZygoteGoneError:
            keeper.retire(zygote)
            host = Host(keeper.get(), job)
        session = LocalSession(self, crew, host, job.limits, key)
        crew.sessions.add(session)
        return session

    def metrics(self) -> SandboxMetrics:
        """What this process's programs did so far."""
        crew = self._own_crew()
        return self._recorder.metrics(
            running=crew.admission.running,
            waiting=crew.admission.waiting,
            sessions=len(crew.sessions),
            starts=sum(keeper.starts for keeper in crew.keepers),
            losses=sum(keeper.lost for keeper in crew.keepers),
        )

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


class LocalSession:
    """A :class:`~retool_env.sandbox.base.Session` of a :class:`LocalSandbox`. Made by ``open_session``."""

    def __init__(self, sandbox: LocalSandbox, crew: Crew, host: Host, limits: Limits, key: str) -> None:
        self._sandbox = sandbox
        self._crew = crew
        self._host: Host | None = host
        self._limits = limits
        self._key = key
        self._lock = threading.Lock()

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
        check_files(files or {})
        check_relative(fetch)
        job = Job(code=code, mode=mode, limits=self._bounded(limits), stdin=stdin, files=files or {}, fetch=fetch)
        with self._lock:
            return self._sandbox._admit(self._crew, self._key, cancel, lambda: self._run(job, cancel))

    def _bounded(self, limits: Limits | None) -> Limits:
        """A cell may be given less than the session, not more."""
        if limits is None:
            return self._limits
        return dataclasses.replace(
            self._limits,
            cpu_seconds=min(limits.cpu_seconds, self._limits.cpu_seconds),
            wall_seconds=min(limits.wall_seconds, self._limits.wall_seconds),
            output_bytes=limits.output_bytes,
            stop_bytes=limits.stop_bytes,
        )

    def _run(self, job: Job, cancel: Cancel | None) -> RunResult:
        if self._host is None:
            return _failed("closed", "the session is closed or was lost")
        try:
            return self._host.run(job, cancel)
        except SandboxError:
            self._end()
            raise

    def _end(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None
        self._crew.sessions.discard(self)

    def close(self) -> None:
        """End every process of the session."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
