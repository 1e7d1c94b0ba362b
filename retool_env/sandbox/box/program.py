"""From a fork of the zygote to a running program: take the descriptors, go into the box, become the guest.

A *spare* does the same in two halves: it goes into the box ahead of time and waits there for an order. Both halves
run in the child; nothing here returns into the zygote's loop. Left out: forking and bookkeeping (``nursery``).
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from . import confine, guest, parcel
from .confine import Confinement
from .wire import ENDS, PACKET, Order

__all__ = ["PROC_FD", "SPARE_FD", "Contents", "Stage", "become_program", "become_spare", "read_text"]

SPARE_FD = guest.STATUS_FD + 1
"""Where a spare listens, and a session's host."""

PROC_FD = SPARE_FD + 1
"""Where a session's host keeps the host's ``/proc``. The numbers up to here belong to children alone."""

MOST_FDS = len(ENDS) + 3


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The program and its files, as read from the descriptors of an order."""

    code: str
    files: bytes


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a child needs to know of its zygote.

    Attributes:
        baseline: bytes of address space that the warm interpreter has already.
    """

    confinement: Confinement
    baseline: int


def read_all(fd: int) -> bytes:
    """An anonymous file, whole, wherever its position is."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def read_text(fd: int) -> str:
    """A program's text. Lone surrogates pass: the program shall fail, not the harness."""
    return read_all(fd).decode("utf-8", "surrogatepass").removeprefix("\ufeff")


def take(order_stdin: bool, order_files: bool, fds: list[int]) -> Contents:
    """Make the descriptors (code, stdout, stderr, then stdin and files if there) our standard streams."""
    rest = fds[3:]
    contents = Contents(code=read_text(fds[0]), files=read_all(rest[-1]) if order_files else b"")
    if order_stdin:
        os.dup2(rest[0], 0)
    os.dup2(fds[1], 1)
    os.dup2(fds[2], 2)
    return contents


def _limit(stage: Stage, order: Order) -> None:
    confine.limit(
        cpu_seconds=order["cpu_seconds"],
        memory_bytes=stage.baseline + (order["memory_mb"] << 20),
        disk_mb=order["disk_mb"],
    )


def become_program(stage: Stage, order: Order, fds: list[int], slot: int) -> NoReturn:
    """The whole way at once. ``fds`` are those of the order without the control socket."""
    contents = take(order["stdin"], order["files"], fds)
    home = stage.confinement.enter(slot=slot, scratch=order["scratch"], disk_mb=order["disk_mb"])
    stage.confinement.seal(subprocesses=order["subprocesses"], keep=guest.STATUS_FD + 1)
    guest.take_stage(home)
    _begin(stage, order, contents)


def become_spare(stage: Stage, slot: int, disk_mb: int) -> NoReturn:
    """Wait in the box for an order on :data:`SPARE_FD`; end when there will be none."""
    home = stage.confinement.enter(slot=slot, scratch="", disk_mb=disk_mb)
    stage.confinement.seal(subprocesses=False, keep=SPARE_FD + 1)
    guest.take_stage(home)
    with socket.socket(fileno=SPARE_FD) as line:
        packet, fds, _, _ = socket.recv_fds(line, PACKET, MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        os._exit(0)
    order: Order = json.loads(packet)
    contents = take(order["stdin"], order["files"], fds)
    confine.close_inherited(SPARE_FD)
    _begin(stage, order, contents)


def _begin(stage: Stage, order: Order, contents: Contents) -> NoReturn:
    _limit(stage, order)
    guest.seed_random(order["seed"])
    if contents.files:
        parcel.unpack(contents.files)
    guest.live(contents.code, order["mode"])
