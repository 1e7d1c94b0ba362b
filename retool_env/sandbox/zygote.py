"""The zygote: a small warm interpreter that forks one child per program and tells truthfully how it ended.

Run by path as ``zygote.py REQUEST_FD PARENT_PIDFD IMAGE BASE`` with a clean environment; it imports nothing of this
package but a few neighbours that need the standard library only, by path too. It never reads a program. It alone
decides about time: processor seconds are read from the child's own kernel clock, finer than RLIMIT_CPU, which counts
whole seconds and is all that stops a program's own children before they are waited for. The verdict material comes
from ``wait4`` and from a status pipe that only the set-up and the guest write to.

Everything it started dies with it: it exits when the request socket ends or the caller's process is gone (a pidfd, as
PDEATHSIG would follow the *thread* that started us), kills every group and adopted orphan first, and its children
carry PDEATHSIG for the case that it is killed itself. Left out: namespaces, which would make all this one kill.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from retool_env.sandbox import confine, guest, images, kernel, scratch, wire
    from retool_env.sandbox.wire import Order, Report, Why
else:

    def _neighbour(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    confine, guest, images, kernel, scratch, wire = map(
        _neighbour, ("confine", "guest", "images", "kernel", "scratch", "wire")
    )

_DESCRIPTORS = 4096
_FINEST_CHECK = 0.005


@dataclass(kw_only=True)
class Run:
    """A program that is running, or dead and not yet reported."""

    pid: int
    pidfd: int
    control: socket.socket
    status_fd: int
    order: Order
    start: float
    next_check: float
    why: Why = ""

    @property
    def deadline(self) -> float:
        """When the wall clock ends it."""
        return self.start + self.order["wall_seconds"]


def _send(control: socket.socket, report: Report) -> None:
    # The caller may have given up on this run.
    with contextlib.suppress(OSError):
        control.send(json.dumps(report).encode())


def _read_code(fd: int) -> str:
    return os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "surrogatepass").removeprefix("\ufeff")


class Zygote:
    """One loop over: new orders, ended children, callers who ask to stop, deadlines, orphans."""

    def __init__(self, requests: socket.socket, parent: int, privilege: confine.Privilege) -> None:
        self._requests = requests
        self._parent = parent
        self._privilege: confine.Privilege = privilege
        self._pid = os.getpid()
        self._baseline = kernel.address_space()
        self._oom_kills = kernel.oom_kills()
        self._by_fd: dict[int, Run] = {}
        self._orphans = False
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._poll.register(parent, select.POLLIN)

    def serve(self) -> None:
        """Work until the caller goes away."""
        while True:
            ready = {fd for fd, _ in self._poll.poll(self._patience())}
            for fd in ready & self._by_fd.keys():
                self._attend(fd)
            # New orders last: they may reuse the numbers of descriptors that were closed just now.
            if self._parent in ready or (self._requests.fileno() in ready and not self._accept()):
                return
            self._enforce()
            if self._orphans:
                self._kill_orphans()

    def end(self) -> None:
        """Kill every descendant that is left."""
        for run in self._runs():
            kernel.kill_group(run.pid)
        while pids := kernel.children():
            for pid in pids:
                kernel.kill_group(pid)
            os.waitpid(-1, 0)

    def _runs(self) -> list[Run]:
        return [run for fd, run in self._by_fd.items() if fd == run.pidfd]

    def _patience(self) -> int | None:
        """Milliseconds until something must be looked at."""
        moments = [min(run.deadline, run.next_check) for run in self._runs() if not run.why]
        if self._orphans:
            moments.append(time.monotonic() + 2 * _FINEST_CHECK)
        return max(0, math.ceil(1000 * (min(moments) - time.monotonic()))) if moments else None

    def _accept(self) -> bool:
        """Start the program of one order; false when there will be no more orders."""
        packet, fds, _, _ = socket.recv_fds(self._requests, wire.PACKET, len(wire.ENDS), socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return False
        control = socket.socket(fileno=fds[0])
        try:
            self._start(json.loads(packet), control, fds[1:])
        except OSError as error:
            _send(control, _fault(f"the zygote could not fork: {error}"))
            control.close()
        finally:
            for fd in fds[1:]:
                os.close(fd)
        return True

    def _start(self, order: Order, control: socket.socket, fds: list[int]) -> None:
        status_read, status_write = os.pipe()
        start = time.monotonic()
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(order, fds, status_write)
        except OSError:
            os.close(status_read)
            raise
        finally:
            os.close(status_write)
        pidfd = os.pidfd_open(pid)
        check = start + order["cpu_seconds"] / 2
        run = Run(
            pid=pid, pidfd=pidfd, control=control, status_fd=status_read, order=order, start=start, next_check=check
        )
        for fd in (pidfd, control.fileno()):
            self._by_fd[fd] = run
            self._poll.register(fd, select.POLLIN)

    def _be_child(self, order: Order, fds: list[int], status_fd: int) -> NoReturn:
        """In the child: set up, become the guest. Whatever happens, never return into the zygote's loop."""
        try:
            code = _read_code(fds[0])
            for number, fd in enumerate(fds[1:]):
                os.dup2(fd, number)
            if status_fd != guest.STATUS_FD:
                status_fd = os.dup2(status_fd, guest.STATUS_FD, inheritable=False)
            confine.close_inherited(status_fd + 1)
            confine.confine(scratch=order["scratch"], privilege=self._privilege, zygote_pid=self._pid)
            guest.take_stage(order["scratch"], order["seed"])
            memory_bytes = self._baseline + (order["memory_mb"] << 20)
            confine.limit(cpu_seconds=order["cpu_seconds"], memory_bytes=memory_bytes)
            guest.live(code, order["mode"])
        except BaseException as error:  # noqa: BLE001
            # The border: the caller must learn of any failure of the set-up, and no program may run without it.
            os.write(status_fd, guest.FAULT + repr(error).encode()[:1000])
        finally:
            os._exit(1)

    def _attend(self, fd: int) -> None:
        """A child ended, or its caller wants it to."""
        run = self._by_fd.get(fd)
        if run is not None and fd == run.pidfd:
            self._bury(run)
        elif run is not None:
            # Its end of file would be reported for ever.
            self._poll.unregister(fd)
            self._kill(run, "asked")

    def _enforce(self) -> None:
        now = time.monotonic()
        for run in self._runs():
            if run.why or now < min(run.deadline, run.next_check):
                continue
            limit = run.order["cpu_seconds"]
            used = kernel.cpu_seconds(run.pid)
            if used >= limit:
                self._kill(run, "cpu")
            elif now >= run.deadline:
                self._kill(run, "wall")
            else:
                # Half of what is left, so that a few threads at once are still met near the limit.
                run.next_check = now + max((limit - used) / 2, _FINEST_CHECK)

    def _kill(self, run: Run, why: Why) -> None:
        run.why = run.why or why
        kernel.kill_group(run.pid)

    def _bury(self, run: Run) -> None:
        """Reap a dead child with what it left behind, and report."""
        wall = time.monotonic() - run.start
        kernel.kill_group(run.pid)
        _, status, usage = os.wait4(run.pid, 0)
        for fd in (run.pidfd, run.control.fileno()):
            del self._by_fd[fd]
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)
        self._orphans = True
        self._kill_orphans()
        _send(run.control, self._report(run, os.waitstatus_to_exitcode(status), usage, wall))
        run.control.close()
        os.close(run.pidfd)
        os.close(run.status_fd)

    def _report(self, run: Run, code: int, usage: resource.struct_rusage, wall: float) -> Report:
        said = os.read(run.status_fd, 4096) if select.select([run.status_fd], [], [], 0)[0] else b""
        started = said.startswith(guest.STARTED)
        return {
            "started": started,
            "fault": "" if started else said[1:].decode("utf-8", "replace") or f"set-up ended with {code}",
            "memory": (code == 1 and guest.OUT_OF_MEMORY in said) or self._was_oom(run, code),
            "code": code,
            "why": run.why,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "wall_seconds": wall,
        }

    def _was_oom(self, run: Run, code: int) -> bool:
        """A SIGKILL that we did not send while the kernel's own count of such kills went up."""
        if code != -signal.SIGKILL or run.why:
            return False
        before, self._oom_kills = self._oom_kills, kernel.oom_kills()
        return self._oom_kills > before

    def _kill_orphans(self) -> None:
        """Children that are no runs were adopted from a dead one (a live one adopts its own). They may be many."""
        known = {run.pid for run in self._by_fd.values()}
        strangers = [pid for pid in kernel.children() if pid not in known]
        self._orphans = bool(strangers)
        for pid in strangers:
            kernel.kill_group(pid)
            os.waitpid(pid, os.WNOHANG)


def _fault(message: str) -> Report:
    return {
        "started": False,
        "fault": message,
        "memory": False,
        "code": 0,
        "why": "",
        "cpu_seconds": 0.0,
        "wall_seconds": 0.0,
    }


def main() -> None:
    """Prepare, report ready, serve until the end, leave nothing behind."""
    request_fd, parent, image, base = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    descriptors = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    confine.become_reaper()
    requests = socket.socket(fileno=int(request_fd))
    images.warm_up(image)
    privilege = confine.probe_privilege(base)
    zygote = Zygote(requests, int(parent), privilege)
    try:
        requests.send(json.dumps({"privilege": privilege}).encode())
        zygote.serve()
    finally:
        zygote.end()
        scratch.remove_tree(Path(base))


if __name__ == "__main__":
    main()
