"""Forks the zygote's children: programs, sessions, and spares that wait in their box for a program.

Each child gets a slot, which gives it a user id that no other living one has, and a pipe on which it tells that its
program starts or why it could not. A spare serves only orders of the usual kind; any other gets a fresh fork.

Left out: watching and reaping (``zygote``).
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from . import cells, guest, program, syscalls
from .program import SPARE_FD, Stage
from .wire import Order

__all__ = ["Child", "Nursery"]

_NEWPID: Final = 0x20000000
_SPARE_DISK_MB: Final = 64
_SLOTS: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Child:
    """A living child. ``line`` is a spare's end of the socket on which it waits."""

    pid: int
    pidfd: int
    status_fd: int
    slot: int
    line: socket.socket | None = None

    def close(self) -> None:
        """Close our descriptors of it, after it was reaped."""
        os.close(self.pidfd)
        os.close(self.status_fd)


class Nursery:
    """Makes children. ``pid_namespace`` is the zygote's own, -1 where programs get none of their own."""

    def __init__(self, stage: Stage, *, pid_namespace: int, spares: int) -> None:
        self._stage = stage
        self._pid_namespace = pid_namespace
        # A spare needs a directory that is its own from the start: a mount namespace gives it one.
        self._wanted = spares if stage.confinement.boxed else 0
        self._spares: deque[Child] = deque()
        self._free = list(range(_SLOTS))[::-1]

    @property
    def wants_spare(self) -> bool:
        return len(self._spares) < self._wanted and len(self._free) > 1

    def add_spare(self) -> None:
        """Fork one spare."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            fd = far.fileno()
            child = self._fork(
                lambda slot: program.become_spare(self._stage, slot, _SPARE_DISK_MB), carry=fd, line=near
            )
        self._spares.append(child)

    def start(self, order: Order, fds: list[int]) -> Child:
        """A child that runs the order; ``fds`` are the order's without the control socket. Raises ``OSError``."""
        usual = not (order["session"] or order["subprocesses"]) and order["disk_mb"] == _SPARE_DISK_MB
        while usual and self._spares:
            child = self._spares.popleft()
            assert child.line is not None
            with child.line as line:
                try:
                    socket.send_fds(line, [json.dumps(order).encode()], fds)
                except (BrokenPipeError, ConnectionResetError):
                    # It did not survive its waiting; the next one, or a fresh fork, will do.
                    self._bury_spare(child)
                    continue
            return child
        return self._fresh(order, fds)

    def _fresh(self, order: Order, fds: list[int]) -> Child:
        if order["session"]:
            return self._fork(lambda slot: cells.become_host(self._stage, order, slot), carry=fds[0])
        return self._fork(lambda slot: program.become_program(self._stage, order, fds, slot))

    def _fork(
        self, task: Callable[[int], NoReturn], *, carry: int | None = None, line: socket.socket | None = None
    ) -> Child:
        if not self._free:
            raise OSError(errno.EAGAIN, f"{_SLOTS} programs are running already")
        reading, writing = os.pipe()
        slot = self._free.pop()
        try:
            pid = self._fork_into_namespace()
            if pid == 0:
                self._be_child(task, slot, writing, carry)
        except OSError:
            os.close(reading)
            self._free.append(slot)
            raise
        finally:
            os.close(writing)
        return Child(pid=pid, pidfd=os.pidfd_open(pid), status_fd=reading, slot=slot, line=line)

    def _fork_into_namespace(self) -> int:
        if self._pid_namespace < 0:
            return os.fork()
        syscalls.unshare(_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid:
                syscalls.setns(self._pid_namespace, _NEWPID)
        return pid

    def _be_child(self, task: Callable[[int], NoReturn], slot: int, status_fd: int, carry: int | None) -> NoReturn:
        """Whatever happens, never return into the zygote's loop."""
        try:
            os.dup2(status_fd, guest.STATUS_FD, inheritable=False)
            if carry is not None:
                os.dup2(carry, SPARE_FD, inheritable=False)
            task(slot)
        except BaseException as error:  # noqa: BLE001
            # The border: the caller must learn of any failure of the set-up, and no program may run without it.
            os.write(guest.STATUS_FD, guest.FAULT + (str(error) or repr(error)).encode()[:1000])
        finally:
            os._exit(1)

    def _bury_spare(self, child: Child) -> None:
        """It died in its waiting. One fewer from now on: a host that cannot keep them is not to be forked to death."""
        self._wanted -= 1
        os.waitpid(child.pid, 0)
        self.release(child)
        child.close()

    def release(self, child: Child) -> None:
        """Its slot may be used again."""
        self._free.append(child.slot)
