"""One program from the caller's side: hand it over, read what it writes, take the report, judge.

The calling thread does all of it, so any number of threads may do it at once and a slow reader slows only itself.
The pipes are drained until the report comes and then until they are empty, never until end of file: a process that
the caller's own process forked meanwhile may hold a copy of the writing end.

The zygote enforces the limits; the deadline here only finds a zygote that no longer answers. Left out: which zygote
(``local``), and its restart (``process``).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from retool_env.errors import SandboxError
from retool_env.sandbox.base import Limits, Mode, RunResult, RunStatus
from retool_env.sandbox.capture import Capture
from retool_env.sandbox.process import ZygoteProcess
from retool_env.sandbox.scratch import remove_tree
from retool_env.sandbox.wire import PACKET, Order, Report

__all__ = ["Job", "execute", "judge"]

_GRACE_SECONDS = 10.0
_BATCH_MS = 5
_CHUNK = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """The arguments of one ``run``."""

    code: str
    mode: Mode
    limits: Limits
    stdin: str
    seed: int

    def order(self, scratch: Path) -> Order:
        """What the zygote needs to know of it; the texts go by descriptor."""
        return {
            "mode": self.mode,
            "seed": self.seed,
            "cpu_seconds": self.limits.cpu_seconds,
            "wall_seconds": self.limits.wall_seconds,
            "memory_mb": self.limits.memory_mb,
            "scratch": str(scratch),
        }


def judge(report: Report, *, limits: Limits, overflowed: bool) -> RunStatus:
    """The status: a function of what the kernel counted, with the reason that decides first."""
    if not report["started"]:
        return RunStatus.SANDBOX_ERROR
    if overflowed:
        return RunStatus.OUTPUT_LIMIT
    # A program that ended by itself beyond its limit was only luckier than one that was stopped there.
    if report["why"] in ("cpu", "wall") or report["cpu_seconds"] >= limits.cpu_seconds:
        return RunStatus.TIMEOUT
    if report["memory"]:
        return RunStatus.MEMORY
    if report["code"] < 0:
        return RunStatus.KILLED
    return RunStatus.OK if report["code"] == 0 else RunStatus.ERROR


def _text_file(name: str, text: str) -> int:
    """``text`` as an anonymous file, read from its start. Lone surrogates pass: the program shall fail, not we."""
    fd = os.memfd_create(name)
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "surrogatepass"))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class _Channel:
    """The descriptors of one run: the far ends go to the zygote, the near ends stay here."""

    def __init__(self, job: Job) -> None:
        self._near = contextlib.ExitStack()
        self.far: list[int] = []
        self.captures: dict[int, Capture] = {}
        try:
            self._open(job)
        except OSError:
            self.close()
            raise

    def _open(self, job: Job) -> None:
        """Far ends in the sequence of ``wire.ENDS``."""
        self.control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._near.enter_context(self.control)
        self.far.append(far.detach())
        self.far.append(_text_file("code", job.code))
        self.far.append(_text_file("stdin", job.stdin))
        for _ in ("stdout", "stderr"):
            near, far_end = os.pipe()
            self._near.callback(os.close, near)
            self.far.append(far_end)
            os.set_blocking(near, False)
            self.captures[near] = Capture(job.limits.output_bytes)

    @property
    def overflowed(self) -> bool:
        return any(capture.overflowed for capture in self.captures.values())

    def close_far(self) -> None:
        while self.far:
            os.close(self.far.pop())

    def close(self) -> None:
        self.close_far()
        self._near.close()


def _pump(fd: int, capture: Capture) -> int | None:
    """Read once: the number of bytes, 0 at the end of file, ``None`` when there is nothing for now."""
    try:
        data = os.read(fd, _CHUNK)
    except BlockingIOError:
        return None
    capture.feed(data)
    return len(data)


def _take_report(channel: _Channel) -> Report:
    """The zygote has written or is gone. What the program wrote before that is in the pipes already."""
    try:
        packet = channel.control.recv(PACKET)
    except ConnectionResetError:
        packet = b""
    if not packet:
        raise SandboxError("the zygote ended while the program was running")
    for fd, capture in channel.captures.items():
        while _pump(fd, capture):
            pass
    report: Report = json.loads(packet)
    return report


def _listen(channel: _Channel, deadline: float) -> Report:
    """Drain both streams until the report is there; ask for a stop when the program writes too much."""
    end, anything = select.poll(), select.poll()
    end.register(channel.control, select.POLLIN)
    for fd in (channel.control.fileno(), *channel.captures):
        anything.register(fd, select.POLLIN)
    asked = False
    while (left := deadline - time.monotonic()) > 0:
        # For a moment the report alone: a chatty program must not wake the trainer for every line.
        if end.poll(_BATCH_MS):
            return _take_report(channel)
        for fd, _ in anything.poll(1000 * left):
            if fd in channel.captures and _pump(fd, channel.captures[fd]) == 0:
                anything.unregister(fd)
        if channel.overflowed and not asked:
            asked = True
            # Not a message: one left unread when the zygote closes would destroy the report on its way to us.
            with contextlib.suppress(OSError):
                channel.control.shutdown(socket.SHUT_WR)
    raise SandboxError("the zygote does not answer")


def _result(report: Report, channel: _Channel, limits: Limits) -> RunResult:
    stdout, stderr = (capture.text() for capture in channel.captures.values())
    return RunResult(
        status=judge(report, limits=limits, overflowed=channel.overflowed),
        stdout=stdout,
        stderr=stderr if report["started"] else report["fault"],
        exit_code=report["code"] if report["started"] and report["code"] >= 0 else None,
        cpu_seconds=report["cpu_seconds"],
        wall_seconds=report["wall_seconds"],
    )


def execute(zygote: ZygoteProcess, job: Job) -> RunResult:
    """Run one program. Raises :class:`SandboxError` when the zygote fails and ``OSError`` when this process is short
    of descriptors or disk."""
    scratch = zygote.new_scratch()
    try:
        with contextlib.closing(_Channel(job)) as channel:
            zygote.submit(job.order(scratch), channel.far)
            channel.close_far()
            report = _listen(channel, time.monotonic() + job.limits.wall_seconds + _GRACE_SECONDS)
            return _result(report, channel, job.limits)
    finally:
        remove_tree(scratch)
