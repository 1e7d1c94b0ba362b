"""A session inside its box: a host that runs no program, and cells that each start as a fork of the last good one.

The host is the first process of the box and stays clean. The process that holds the state, the *holder*, waits; for
each cell it forks a child that runs it. A child that reaches the end becomes the holder and the old one is killed; a
child that is stopped, crashes or exits by force is gone, and the holder is the state before it. Only files and what a
cell's own threads did are not rolled back; threads do not live on into the next cell.

The host enforces the limits, with the kernel's own clocks. What happened *in* a cell is told by the cell itself, so a
program can lie about that to its own caller and about nothing else.

A cell that is ``alone`` is a whole program, judged by its exit alone; it is how files are read back after a program
has ended, by the host, which the program cannot touch.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from . import confine, guest, kernel, meter, parcel, program
from .holder import DIED, ENDED, be_first_cell
from .meter import Meter
from .program import PROC_FD, SPARE_FD, Stage
from .wire import PACKET, Cell, CellReport, Order, Why

__all__ = ["become_host"]

_GREETING: Final = b"+"
_CREDENTIALS: Final = struct.Struct("3i")
_PATIENCE: Final = 10.0


class _LostError(Exception):
    """The session cannot go on."""


@dataclass(kw_only=True)
class _Process:
    """A cell that runs, or the holder. ``pid`` and ``meter`` come with its first message."""

    line: socket.socket
    ours: bool
    pid: int = 0
    pidfd: int = -1
    meter: Meter | None = None

    def kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self.line.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)


@dataclass(kw_only=True)
class _Story:
    """What became of one cell so far."""

    started: bool = False
    fault: str = ""
    memory: bool = False
    kept: bool = False
    code: int = 0
    why: Why = ""
    cpu_seconds: float = 0.0
    max_rss_mb: float = 0.0

    def report(self, wall_seconds: float) -> CellReport:
        return {
            "started": self.started,
            "fault": self.fault if not self.started else "",
            "memory": self.memory and self.code == 1,
            "code": self.code,
            "why": self.why,
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": wall_seconds,
            "max_rss_mb": self.max_rss_mb,
            "kept": self.kept,
        }


def become_host(stage: Stage, order: Order, slot: int) -> NoReturn:
    """Go into the box and serve cells on :data:`program.SPARE_FD` until nobody sends any."""
    kernel.become_reaper()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    home = stage.confinement.enter(slot=slot, scratch=order["scratch"], disk_mb=order["disk_mb"])
    os.dup2(stage.confinement.proc, PROC_FD, inheritable=False)
    confine.close_inherited(PROC_FD + 1)
    guest.take_stage(home)
    guest.seed_random(order["seed"])
    os.write(guest.STATUS_FD, guest.STARTED)
    host = _Host(stage, order, socket.socket(fileno=SPARE_FD))
    with contextlib.suppress(_LostError, OSError):
        host.serve()
    os._exit(0)


class _Host:
    def __init__(self, stage: Stage, order: Order, channel: socket.socket) -> None:
        self._stage = stage
        self._order = order
        self._channel = channel
        self._holder: _Process | None = None

    def serve(self) -> None:
        self._channel.send(_GREETING)
        while True:
            packet, fds, _, _ = socket.recv_fds(self._channel, PACKET, program.MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            if not packet:
                return
            cell: Cell = json.loads(packet)
            if fds:
                self._answer(cell, packet, fds)
            # Without descriptors it is a stop that came too late.

    def _answer(self, cell: Cell, packet: bytes, fds: list[int]) -> None:
        fetch_fd = fds.pop() if cell["fetch"] else -1
        start = time.monotonic()
        process = self._begin(cell, packet, fds)
        for fd in fds:
            os.close(fd)
        story = self._watch(process, cell, start)
        if cell["fetch"]:
            with open(fetch_fd, "wb") as file:
                file.write(parcel.pack(cell["fetch"]))
        self._channel.send(json.dumps(story.report(time.monotonic() - start)).encode())
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _begin(self, cell: Cell, packet: bytes, fds: list[int]) -> _Process:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with far:
            if self._holder is not None:
                try:
                    socket.send_fds(self._holder.line, [packet], [far.fileno(), *fds])
                except OSError as error:
                    raise _LostError from error
                return _Process(line=near, ours=False)
            if os.fork() == 0:
                be_first_cell(self._stage, self._order, cell, fds, far.fileno())
        return _Process(line=near, ours=True)

    def _watch(self, process: _Process, cell: Cell, start: float) -> _Story:
        """Until the cell has ended, one way or the other."""
        story = _Story()
        last = start + meter.MOST_PATIENCE * cell["wall_seconds"] + _PATIENCE
        while not self._step(process, cell, story):
            if time.monotonic() > last and process.meter is None:
                raise _LostError
        return story

    def _step(self, process: _Process, cell: Cell, story: _Story) -> bool:
        """Wait for one thing to happen; whether the cell has ended."""
        poll = select.poll()
        for fd in (self._channel.fileno(), process.line.fileno(), *([process.pidfd] if process.pid else [])):
            poll.register(fd, select.POLLIN)
        due = process.meter.due if process.meter is not None and not story.why else time.monotonic() + 1.0
        ready = {fd for fd, _ in poll.poll(max(0.0, 1000 * (due - time.monotonic())) + 1)}
        if process.line.fileno() in ready and self._hear(process, cell, story):
            return True
        if process.pidfd in ready:
            self._bury(process, cell, story)
            return True
        if self._channel.fileno() in ready:
            if not self._channel.recv(PACKET):
                raise _LostError
            self._stop(process, story, "asked")
        if process.meter is not None and (why := process.meter.verdict()):
            self._stop(process, story, why)
        return False

    def _stop(self, process: _Process, story: _Story, why: Why) -> None:
        story.why = story.why or why
        process.kill()

    def _hear(self, process: _Process, cell: Cell, story: _Story) -> bool:
        """One message of the cell; whether it was the last."""
        said, ancillary, _, _ = process.line.recvmsg(PACKET, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not said:
            if not process.pid:
                # Ended before it began.
                raise _LostError
            process.line.shutdown(socket.SHUT_RDWR)
            self._await_death(process, cell, story)
            return True
        if said == guest.STARTED and not process.pid:
            self._identify(process, ancillary, cell)
            story.started = True
        elif said == guest.OUT_OF_MEMORY:
            story.memory = True
        elif said.startswith(guest.FAULT):
            story.fault = said[1:].decode("utf-8", "replace")
        elif said.startswith(ENDED):
            self._keep(process, json.loads(said[1:]), story)
            return True
        return False

    def _identify(self, process: _Process, ancillary: list[tuple[int, int, bytes]], cell: Cell) -> None:
        """The sender as the kernel names it."""
        process.pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
        process.pidfd = os.pidfd_open(process.pid)
        process.meter = Meter(
            pid=process.pid,
            pidfd=process.pidfd,
            cpu_limit=cell["cpu_seconds"],
            wall_limit=cell["wall_seconds"],
            proc=PROC_FD,
        )

    def _keep(self, process: _Process, end: dict[str, Any], story: _Story) -> None:
        """The cell came to its end: it is the state now."""
        story.kept = True
        story.code, story.max_rss_mb = int(end["code"]), float(end["max_rss_mb"])
        story.cpu_seconds = meter.cpu_seconds(process.pid)
        if self._holder is not None:
            self._holder.kill()
            self._holder.close()
        self._holder = process

    def _await_death(self, process: _Process, cell: Cell, story: _Story) -> None:
        if select.select([process.pidfd], [], [], _PATIENCE)[0]:
            self._bury(process, cell, story)
        else:
            process.kill()
            raise _LostError

    def _bury(self, process: _Process, cell: Cell, story: _Story) -> None:
        """The cell is dead: how it ended, from whoever is its parent."""
        with contextlib.suppress(OSError):
            process.line.setblocking(False)
            while said := process.line.recv(PACKET):
                story.memory = story.memory or said == guest.OUT_OF_MEMORY
        if process.ours:
            _, status, usage = os.wait4(process.pid, 0)
            story.code = os.waitstatus_to_exitcode(status)
            story.cpu_seconds = usage.ru_utime + usage.ru_stime
            story.max_rss_mb = usage.ru_maxrss / 1024
        else:
            self._ask_parent(story)
        process.close()

    def _ask_parent(self, story: _Story) -> None:
        assert self._holder is not None
        line = self._holder.line
        if not select.select([line], [], [], _PATIENCE)[0]:
            raise _LostError
        said = line.recv(PACKET)
        if not said.startswith(DIED):
            raise _LostError
        end = json.loads(said[1:])
        story.code, story.cpu_seconds = int(end["code"]), float(end["cpu_seconds"])
        story.max_rss_mb = float(end["max_rss_mb"])
