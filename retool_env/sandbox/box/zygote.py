"""The zygote: a small warm interpreter that forks one boxed child per program and tells truthfully how it ended.

Started with a clean environment as ``main(REQUEST_FD, PARENT_PIDFD, SET_UP)``. It never reads a program and decides
alone about time (``meter``). The verdict material comes from ``wait4`` and from a status pipe on which set-up and
guest say that the program begins, or why it cannot.

Everything it started dies with it. With namespaces it is the first process of its own, so the kernel sees to that.
Without, it kills every group and adopted orphan before it ends, and its children carry PDEATHSIG for the case that it
is killed itself. It ends when the request socket does or when its owner's process is gone (a pidfd, as PDEATHSIG
would follow the *thread* that started us).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import birth, ground, guest, images, kernel, memory, scratch, wire
from .meter import Meter
from .nursery import Child, Nursery
from .program import MOST_FDS, Stage
from .rehearsal import rehearse
from .wire import Order, Ready, Report, Set_up, Why

__all__ = ["main"]

_ORPHAN_PAUSE: Final = 0.01
_IDLE_SECONDS, _QUIET_SECONDS = 0.002, 0.02


@dataclass(kw_only=True)
class Run:
    """A program that is running, or dead and not yet reported. A session has no limits here."""

    child: Child
    control: socket.socket
    meter: Meter | None
    start: float
    why: Why = ""


def _send(control: socket.socket, report: Report) -> None:
    # The caller may have given up on this run.
    with contextlib.suppress(OSError):
        control.send(json.dumps(report).encode())


class Zygote:
    """One loop over: new orders, ended children, callers who ask to stop, deadlines, spares, orphans."""

    def __init__(
        self, requests: socket.socket, parent: int, stage: Stage, nursery: Nursery, counters: kernel.Counters
    ) -> None:
        self._requests = requests
        self._parent = parent
        self._stage = stage
        self._nursery = nursery
        self._counters = counters
        self._boxed = stage.confinement.boxed
        self._oom_kills = counters.oom_kills()
        self._runs: dict[int, Run] = {}
        self._by_control: dict[int, Run] = {}
        self._orphans = False
        # Under load a spare saves nobody time and takes it from those who run.
        self._spare_due = 0.0
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._poll.register(parent, select.POLLIN)

    def serve(self) -> None:
        """Work until the caller goes away."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """Wait for something to happen and see to it; false when the caller has gone away."""
        ready = {fd for fd, _ in self._poll.poll(self._patience())}
        for fd in ready & self._runs.keys():
            self._bury(self._runs[fd])
        for fd in ready & self._by_control.keys():
            self._hang_up(self._by_control[fd])
        # New orders last: they may reuse the numbers of descriptors that were closed just now.
        if self._parent in ready or (self._requests.fileno() in ready and not self._accept()):
            return False
        self._enforce()
        if self._orphans:
            self._kill_orphans()
        if ready:
            self._spare_due = time.monotonic() + (_QUIET_SECONDS if self._runs else _IDLE_SECONDS)
        elif self._nursery.wants_spare and time.monotonic() >= self._spare_due:
            self._nursery.add_spare()
        return True

    @property
    def running(self) -> int:
        """Number of programs that are running, or dead and not yet reported."""
        return len(self._runs)

    def end(self) -> None:
        """Kill every descendant that is left, where the end of the namespace does not."""
        if self._boxed:
            return
        for run in self._runs.values():
            kernel.kill_group(run.child.pid)
        while pids := kernel.children():
            for pid in pids:
                kernel.kill_group(pid)
            os.waitpid(-1, 0)

    def _patience(self) -> int | None:
        """Milliseconds until something must be looked at."""
        moments = [run.meter.due for run in self._runs.values() if run.meter is not None and not run.why]
        if self._orphans:
            moments.append(time.monotonic() + _ORPHAN_PAUSE)
        if self._nursery.wants_spare:
            moments.append(self._spare_due)
        return max(0, math.ceil(1000 * (min(moments) - time.monotonic()))) if moments else None

    def _accept(self) -> bool:
        """Start the program of one order; false when there will be no more orders."""
        packet, fds, _, _ = socket.recv_fds(self._requests, wire.PACKET, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            return False
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=fds[0])
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
        start = time.monotonic()
        child = self._nursery.start(order, fds)
        meter = None
        if not order["session"]:
            meter = Meter(
                pid=child.pid,
                pidfd=child.pidfd,
                cpu_limit=order["cpu_seconds"],
                wall_limit=order["wall_seconds"],
                proc=self._stage.confinement.proc,
                memory_mb=order["memory_mb"] if order["subprocesses"] else math.inf,
            )
        run = Run(child=child, control=control, meter=meter, start=start)
        self._runs[child.pidfd] = self._by_control[control.fileno()] = run
        for fd in (child.pidfd, control.fileno()):
            self._poll.register(fd, select.POLLIN)

    def _hang_up(self, run: Run) -> None:
        """The caller wants it to end."""
        # Its end of file would be reported for ever.
        self._poll.unregister(run.control.fileno())
        del self._by_control[run.control.fileno()]
        self._kill(run, "asked")

    def _enforce(self) -> None:
        for run in self._runs.values():
            if run.meter is not None and not run.why and (why := run.meter.verdict()):
                self._kill(run, why)

    def _kill(self, run: Run, why: Why) -> None:
        run.why = run.why or why
        kernel.kill_group(run.child.pid)

    def _bury(self, run: Run) -> None:
        """Reap a dead child with what it left behind, and report."""
        wall = time.monotonic() - run.start
        if not self._boxed:
            kernel.kill_group(run.child.pid)
        _, status, usage = os.wait4(run.child.pid, 0)
        del self._runs[run.child.pidfd]
        self._poll.unregister(run.child.pidfd)
        if self._by_control.pop(run.control.fileno(), None) is not None:
            self._poll.unregister(run.control.fileno())
        if not self._boxed:
            self._orphans = True
            self._kill_orphans()
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGSYS and self._boxed:
            # Only the filter sends it, for a SIGKILL that the program aimed at itself.
            code = -signal.SIGKILL
        _send(run.control, self._report(run, code, usage, wall))
        run.control.close()
        self._nursery.release(run.child)
        run.child.close()

    def _report(self, run: Run, code: int, usage: resource.struct_rusage, wall: float) -> Report:
        status = run.child.status_fd
        said = os.read(status, 4096) if select.select([status], [], [], 0)[0] else b""
        started = said.startswith(guest.STARTED)
        before = run.meter.cpu_before if run.meter is not None else 0.0
        return {
            "started": started,
            "fault": "" if started else said[1:].decode("utf-8", "replace") or f"set-up ended with {code}",
            "memory": run.why == "memory" or (code == 1 and guest.OUT_OF_MEMORY in said) or self._was_oom(run, code),
            "code": code,
            "why": run.why,
            "cpu_seconds": max(0.0, usage.ru_utime + usage.ru_stime - before),
            "wall_seconds": wall,
            "max_rss_mb": usage.ru_maxrss / 1024,
        }

    def _was_oom(self, run: Run, code: int) -> bool:
        """A SIGKILL that we did not send while the kernel's own count of such kills went up."""
        if code != -signal.SIGKILL or run.why:
            return False
        before, self._oom_kills = self._oom_kills, self._counters.oom_kills()
        return self._oom_kills > before

    def _kill_orphans(self) -> None:
        """Children that are no runs were adopted from a dead one (a live one adopts its own). They may be many."""
        known = {run.child.pid for run in self._runs.values()}
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
        "max_rss_mb": 0.0,
    }


def main(request_fd: int, parent: int, set_up: Set_up) -> None:
    """Prepare, report ready, serve until the end, leave nothing behind."""
    birth.behave()
    birth.reserve_descriptors()
    requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=request_fd)
    base = set_up["base"]
    site, refused = ground.choose(set_up["tiers"], base=base, hint=set_up["hint"])
    ready: Ready = {"tier": "", "refused": refused}
    if site is None:
        requests.send(json.dumps(ready).encode())
        return
    counters = kernel.Counters()
    images.warm_up(set_up["image"])
    kernel.become_reaper()
    confinement = site.confinement()
    birth.hide_traces()
    birth.set_stage(confinement.boxed)

    def new_zygote(orders: socket.socket, spares: int) -> Zygote:
        stage = Stage(confinement=confinement, baseline=counters.address_space())
        nursery = Nursery(stage, pid_namespace=site.pid_namespace, spares=spares)
        return Zygote(orders, parent, stage, nursery, counters)

    hot = rehearse(lambda orders: new_zygote(orders, 0), site.proc) if confinement.boxed else frozenset()
    images.freeze()
    memory.settle(site.proc, hot)
    zygote = new_zygote(requests, set_up["spares"])
    ready["tier"] = site.tier
    try:
        requests.send(json.dumps(ready).encode())
        zygote.serve()
    finally:
        zygote.end()
        if not confinement.boxed:
            scratch.remove_tree(Path(base))
