"""One program from the caller's side: hand it over, read what it writes, take the report, judge.

The calling thread does all of it, so any number of threads may do it at once and a slow reader slows only itself.
The pipes are drained until the report comes and then until they are empty, never until end of file: a process that
the caller's own process forked meanwhile may hold a copy of the writing end.

The zygote enforces the limits; the deadline here only finds a zygote that no longer answers. Left out: which zygote
(``local``), its restart (``process``), and the cells of a session (``session``), which use the same parts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from retool_env.errors import SandboxError
from retool_env.sandbox.base import Cancel, Limits, Mode, RunResult, RunStatus
from retool_env.sandbox.box import parcel
from retool_env.sandbox.box.meter import MOST_PATIENCE
from retool_env.sandbox.box.wire import PACKET, Order, Report
from retool_env.sandbox.capture import Capture
from retool_env.sandbox.process import ZygoteProcess

__all__ = ["Job", "Stop", "Streams", "answer_by", "armed", "execute", "judge", "new_order", "result_of", "take_report"]

_GRACE_SECONDS = 10.0
_BATCH_MS = 5
_CHUNK = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Job:
    """The arguments of one ``run``."""

    code: str
    mode: Mode
    limits: Limits
    stdin: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    fetch: Sequence[str] = ()
    seed: int = 0


def new_order(job: Job, *, scratch: str, session: bool = False) -> Order:
    """What the zygote needs to know of a job; the texts go by descriptor."""
    limits = job.limits
    return {
        "session": session,
        "mode": job.mode,
        "seed": job.seed,
        "cpu_seconds": limits.cpu_seconds,
        "wall_seconds": limits.wall_seconds,
        "memory_mb": limits.memory_mb,
        "disk_mb": limits.disk_mb,
        "subprocesses": limits.subprocesses,
        "scratch": scratch,
        "stdin": bool(job.stdin),
        "files": bool(job.files),
    }


def answer_by(limits: Limits) -> float:
    """The moment after which a zygote that has not answered is taken for dead."""
    return time.monotonic() + MOST_PATIENCE * limits.wall_seconds + _GRACE_SECONDS


def judge(report: Report, *, limits: Limits, overflowed: bool) -> RunStatus:
    """The status: a function of what the kernel counted, with the reason that decides first."""
    if report["why"] == "asked" and not overflowed:
        return RunStatus.CANCELLED
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


def _anonymous_file(name: str, data: bytes) -> int:
    """``data`` as an anonymous file, read from its start."""
    fd = os.memfd_create(name)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


class Streams:
    """The descriptors that a program comes with: the far ends go to it, the near ends stay here."""

    def __init__(self, job: Job) -> None:
        self._near = contextlib.ExitStack()
        self.far: list[int] = []
        self.captures: dict[int, Capture] = {}
        self.fetched = -1
        try:
            self._open(job)
        except OSError:
            self.close()
            raise

    def _open(self, job: Job) -> None:
        """Far ends in the sequence of ``wire.ENDS``. Lone surrogates pass: the program shall fail, not we."""
        self.far.append(_anonymous_file("code", job.code.encode("utf-8", "surrogatepass")))
        for _ in ("stdout", "stderr"):
            near, far_end = os.pipe()
            self._near.callback(os.close, near)
            self.far.append(far_end)
            os.set_blocking(near, False)
            self.captures[near] = Capture(keep=job.limits.output_bytes, stop=job.limits.stop_bytes)
        if job.stdin:
            self.far.append(_anonymous_file("stdin", job.stdin.encode("utf-8", "surrogatepass")))
        if job.files:
            self.far.append(_anonymous_file("files", parcel.serialise(job.files)))
        if job.fetch:
            self.fetched = os.memfd_create("fetched")
            self._near.callback(os.close, self.fetched)
            self.far.append(os.dup(self.fetched))

    @property
    def overflowed(self) -> bool:
        return any(capture.overflowed for capture in self.captures.values())

    def read_back(self) -> parcel.Parcel:
        """What the far side has read back. A parcel that is not whole holds nothing."""
        if self.fetched < 0:
            return parcel.Parcel({}, [])
        with contextlib.suppress(ValueError, TypeError):
            return parcel.parse(os.pread(self.fetched, os.fstat(self.fetched).st_size, 0))
        return parcel.Parcel({}, [])

    def close_far(self) -> None:
        while self.far:
            os.close(self.far.pop())

    def close(self) -> None:
        self.close_far()
        self._near.close()

    def drain(self) -> None:
        """Read what is in the pipes already."""
        for fd in self.captures:
            while self.pump(fd):
                pass

    def pump(self, fd: int) -> int | None:
        """Read once: the number of bytes, 0 at the end of file, ``None`` when there is nothing for now."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return None
        self.captures[fd].feed(data)
        return len(data)

    def listen(self, sockets: Sequence[socket.socket], deadline: float, stop: Callable[[], None]) -> socket.socket:
        """Drain both streams until one of ``sockets`` has something to say; that one.

        ``stop`` is called once, when the program writes too much. Raises :class:`SandboxError` at ``deadline``.
        """
        end, anything = select.poll(), select.poll()
        numbers = {sock.fileno(): sock for sock in sockets}
        for fd in numbers:
            end.register(fd, select.POLLIN)
        for fd in (*numbers, *self.captures):
            anything.register(fd, select.POLLIN)
        asked = flooded = False
        while (left := deadline - time.monotonic()) > 0:
            # For a moment the report alone: a chatty program must not wake the trainer for every line.
            if ready := end.poll(0 if flooded else _BATCH_MS):
                return numbers[ready[0][0]]
            flooded = False
            for fd, _ in anything.poll(1000 * left):
                size = self.pump(fd) if fd in self.captures else None
                flooded = flooded or size == _CHUNK
                if size == 0:
                    anything.unregister(fd)
            if self.overflowed and not asked:
                asked = True
                stop()
        raise SandboxError("the zygote does not answer")


class Stop:
    """Asks the zygote, from any thread, to end one run; does nothing once the run is over."""

    def __init__(self, control: socket.socket) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = control

    def __call__(self) -> None:
        with self._lock:
            if self._control is not None:
                # Not a message: one left unread when the zygote closes would destroy the report on its way to us.
                with contextlib.suppress(OSError):
                    self._control.shutdown(socket.SHUT_WR)

    def disarm(self) -> None:
        with self._lock:
            self._control = None


@contextlib.contextmanager
def armed(stop: Callable[[], None], cancel: Cancel | None) -> Iterator[None]:
    """``cancel`` calls ``stop`` in here."""
    if cancel is not None:
        cancel.add(stop)
    try:
        yield
    finally:
        if cancel is not None:
            cancel.remove(stop)


def take_report(control: socket.socket, streams: Streams) -> Report:
    """The zygote has written or is gone. What the program wrote before that is in the pipes already."""
    try:
        packet = control.recv(PACKET)
    except ConnectionResetError:
        packet = b""
    if not packet:
        raise SandboxError("the zygote ended while the program was running")
    streams.drain()
    report: Report = json.loads(packet)
    return report


def result_of(report: Report, streams: Streams, limits: Limits, tier: str) -> RunResult:
    """The verdict with everything that the caller gets to see."""
    stdout, stderr = (capture.text() for capture in streams.captures.values())
    status = judge(report, limits=limits, overflowed=streams.overflowed)
    code = report["code"]
    files, left_out = streams.read_back()
    return RunResult(
        status=status,
        stdout=stdout,
        stderr=stderr if report["started"] else report["fault"],
        exit_code=code if report["started"] and code >= 0 else None,
        signal=-code if report["started"] and code < 0 else None,
        cpu_seconds=report["cpu_seconds"],
        wall_seconds=report["wall_seconds"],
        max_rss_mb=report["max_rss_mb"],
        truncated=bool(left_out) or any(capture.cut for capture in streams.captures.values()),
        files=files,
        fault="setup" if status is RunStatus.SANDBOX_ERROR else "",
        tier=tier,
    )


def execute(zygote: ZygoteProcess, job: Job, cancel: Cancel | None) -> RunResult:
    """Run one program. Raises :class:`SandboxError` when the zygote fails and ``OSError`` when this process is short
    of descriptors or memory."""
    assert not job.fetch, "files are read back by a session"
    control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control, zygote.scratch() as scratch, contextlib.closing(Streams(job)) as streams:
        with far_control:
            zygote.submit(new_order(job, scratch=scratch), [far_control.fileno(), *streams.far])
        streams.close_far()
        stop = Stop(control)
        with armed(stop, cancel):
            streams.listen([control], answer_by(job.limits), stop)
        stop.disarm()
        return result_of(take_report(control, streams), streams, job.limits, zygote.tier)
