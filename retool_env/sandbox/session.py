"""A session from the caller's side: cells handed one by one to the host that lives in the box (see ``box.cells``).

:class:`Host` is a box that takes cells. The state is the far side's; here is only the way
there. A program whose files are to be read back is a host with a single cell that is ``alone``.

Left out: admission of cells, and what a caller sees as a session (``local``).
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from typing import Final

from retool_env.errors import SandboxError
from retool_env.sandbox.base import Cancel, RunResult
from retool_env.sandbox.box.wire import PACKET, Cell, CellReport
from retool_env.sandbox.exchange import Job, Streams, answer_by, armed, new_order, result_of, take_report
from retool_env.sandbox.process import ZygoteGoneError, ZygoteProcess

__all__ = ["Host", "run_and_fetch"]

_STOP: Final = b"{}"
_START_SECONDS: Final = 20.0


def _new_cell(job: Job, *, alone: bool) -> Cell:
    return {
        "mode": job.mode,
        "cpu_seconds": job.limits.cpu_seconds,
        "wall_seconds": job.limits.wall_seconds,
        "stdin": bool(job.stdin),
        "files": bool(job.files),
        "fetch": list(job.fetch),
        "alone": alone,
    }


class Host:
    """One box, whose limits are those of ``job``. Not thread-safe but for :meth:`close`.

    Raises:
        SandboxError: it does not come up.
    """

    def __init__(self, zygote: ZygoteProcess, job: Job) -> None:
        self._zygote = zygote
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel, far_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        scratch = self._stack.enter_context(zygote.scratch())
        try:
            with far_control, far_channel:
                order = new_order(job, scratch=scratch, session=True)
                zygote.submit(order, [far_control.fileno(), far_channel.fileno()])
            self._await_greeting()
        except SandboxError:
            self.close()
            raise

    def _await_greeting(self) -> None:
        """The box says that it is there. Until then no program was started, so the caller may try again."""
        ready, _, _ = select.select([self._channel, self._control], [], [], _START_SECONDS)
        if self._channel in ready and self._receive():
            return
        packet = self._control.recv(PACKET) if self._control in ready else b""
        fault = json.loads(packet)["fault"] if packet else "the zygote is gone"
        raise ZygoteGoneError(f"the session did not start: {fault}")

    def run(self, job: Job, cancel: Cancel | None, *, alone: bool = False) -> RunResult:
        """One cell. Raises :class:`SandboxError` when the box is lost."""
        with contextlib.closing(Streams(job)) as streams:
            self._send(_new_cell(job, alone=alone), streams.far)
            streams.close_far()
            with armed(self._stop, cancel):
                speaker = streams.listen([self._channel, self._control], answer_by(job.limits), self._stop)
            packet = b"" if speaker is self._control else self._receive()
            if not packet:
                report = take_report(self._control, streams)
                raise SandboxError(f"the session ended: {report['fault'] or 'its box was lost'}")
            streams.drain()
            end: CellReport = json.loads(packet)
            return result_of(end, streams, job.limits, self._zygote.tier)

    def _send(self, cell: Cell, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._channel, [json.dumps(cell).encode()], descriptors)
        except OSError as error:
            raise SandboxError("the session's box is gone") from error

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(PACKET)
        except ConnectionResetError:
            return b""

    def _stop(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._channel.send(_STOP)

    def close(self) -> None:
        """End the box. It is gone when the zygote says so; a zygote that is dead says so at once."""
        with self._lock:
            self._channel.close()
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
                self._control.settimeout(5.0)
                self._control.recv(PACKET)
            self._control.close()
            self._stack.close()


def run_and_fetch(zygote: ZygoteProcess, job: Job, cancel: Cancel | None) -> RunResult:
    """One program, its files read back after its end by the host, which it cannot touch."""
    with contextlib.closing(Host(zygote, job)) as host:
        return host.run(job, cancel, alone=True)
