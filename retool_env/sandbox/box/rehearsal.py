"""A rehearsal: one ordinary program, run in its box before the first real one, to see which memory it writes to.

It goes the whole way of a program, order and report included, so the pages found are those that every program and the
zygote's own loop touch. It is not rehearsed where programs have no file system of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from . import memory
from .wire import Order

__all__ = ["Loop", "rehearse"]

_PROGRAM: Final = b"import math\nprint(math.gcd(12, 18))\ninput()\nsum(k * k for k in range(10))\n"
_ORDER: Final[Order] = {
    "session": False,
    "mode": "notebook",
    "seed": 0,
    "cpu_seconds": 5.0,
    "wall_seconds": 5.0,
    "memory_mb": 512,
    "disk_mb": 64,
    "subprocesses": False,
    "scratch": "",
    "stdin": True,
    "files": False,
}
_PATIENCE: Final = 5.0


class Loop(Protocol):
    """The zygote as it is needed here: :meth:`turn` waits for one thing to happen and does what is to be done."""

    def turn(self) -> bool: ...

    @property
    def running(self) -> int: ...


def _send(requests: socket.socket, control: socket.socket) -> tuple[int, int]:
    """Send the order; the descriptors from which the program's output is read and to which its input is written."""
    code = os.memfd_create("code")
    os.write(code, _PROGRAM)
    nothing = os.open(os.devnull, os.O_WRONLY)
    printed, output = os.pipe()
    typed, keyboard = os.pipe()
    far = [control.fileno(), code, output, nothing, typed]
    socket.send_fds(requests, [json.dumps(_ORDER).encode()], far)
    for fd in far[1:]:
        os.close(fd)
    return printed, keyboard


def _perform(loop: Loop, requests: socket.socket, look: Callable[[], memory.Pages]) -> memory.Pages:
    """One program from order to report; what ``look`` saw while it was waiting for input, nothing if it never did."""
    control, far_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with control:
        with far_control:
            printed, keyboard = _send(requests, far_control)
        loop.turn()
        try:
            waits = select.select([printed], [], [], _PATIENCE)[0] and os.read(printed, 1)
            return look() if waits else frozenset()
        finally:
            with contextlib.suppress(OSError):
                os.write(keyboard, b"\n")
            os.close(keyboard)
            while loop.running:
                loop.turn()
            os.close(printed)


def rehearse(make_loop: Callable[[socket.socket], Loop], proc: int) -> memory.Pages:
    """The pages that a program writes to, and the zygote while it runs; none where the host does not tell.

    Args:
        make_loop: a zygote that takes its orders from a socket.
        proc: the host's ``/proc``, as a descriptor.
    """
    requests, far_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with requests, far_requests, contextlib.suppress(OSError):
        loop = make_loop(far_requests)
        # Twice, because the first program leaves the zygote's memory in another order than it was.
        _perform(loop, requests, frozenset)
        return _perform(loop, requests, lambda: memory.unshared_pages(proc))
    return frozenset()
