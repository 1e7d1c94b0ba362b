"""A session's state: the processes that run its cells, each a fork of the one that holds the state before it.

All of this runs after the program has had its way with the interpreter, so what is needed is bound beforehand, and
nothing that is said here is believed about anything but the session itself (see ``cells``).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
from typing import Final, NoReturn

from . import confine, guest, parcel, program
from .program import Contents, Stage
from .wire import PACKET, Cell, Order

__all__ = ["DIED", "ENDED", "be_first_cell"]

ENDED: Final = b"E"
"""A cell came to its end; JSON with its exit code follows."""

DIED: Final = b"D"
"""A cell is dead, says the holder that forked it; JSON with its wait status follows."""

_fork, _wait4, _exit, _dup2, _close, _open = os.fork, os.wait4, os._exit, os.dup2, os.close, os.open
_getrusage = resource.getrusage
_dumps, _loads = json.dumps, json.loads


def be_first_cell(stage: Stage, order: Order, cell: Cell, fds: list[int], line: int) -> NoReturn:
    """In a fork of the host: behind all walls, become the first program of the box."""
    try:
        _dup2(line, guest.STATUS_FD, inheritable=False)
        contents = program.take(cell["stdin"], cell["files"], fds)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stage.confinement.seal_cell(subprocesses=order["subprocesses"], alone=cell["alone"], keep=guest.STATUS_FD + 1)
        memory_bytes = stage.baseline + (order["memory_mb"] << 20)
        confine.limit(cpu_seconds=order["cpu_seconds"], memory_bytes=memory_bytes, disk_mb=order["disk_mb"])
        if contents.files:
            parcel.unpack(contents.files)
        if cell["alone"]:
            guest.live(contents.code, cell["mode"])
        _live_on(contents, cell["mode"])
    except BaseException as error:  # noqa: BLE001
        # The border: whatever failed, no program has run.
        os.write(guest.STATUS_FD, guest.FAULT + (str(error) or repr(error)).encode()[:1000])
    finally:
        _exit(1)


def _live_on(contents: Contents, mode: str) -> NoReturn:
    """Run a cell, then hold its state, and in a fork of it run the next one, and so on."""
    main = guest.new_main("")
    gc.enable()
    with socket.socket(fileno=os.dup(guest.STATUS_FD)) as probe:
        family, kind = probe.family, probe.type
    while True:
        guest.show_source(contents.code)
        os.write(guest.STATUS_FD, guest.STARTED)
        code = guest.perform(contents.code, mode, main)
        guest.flush(())
        null = _open(os.devnull, os.O_RDWR)
        for stream in range(3):
            _dup2(null, stream)
        _close(null)
        usage = _getrusage(resource.RUSAGE_SELF)
        line = socket.socket(family, kind, fileno=guest.STATUS_FD)
        line.send(ENDED + _dumps({"code": code, "max_rss_mb": usage.ru_maxrss / 1024}).encode())
        contents, mode = _hold(line)


def _hold(line: socket.socket) -> tuple[Contents, str]:
    """Be the state before the next cell. Returns in a fork, which has to run that cell."""
    while True:
        packet, fds, _, _ = socket.recv_fds(line, PACKET, program.MOST_FDS + 1, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            _exit(0)
        cell: Cell = _loads(packet)
        pid = _fork()
        if pid == 0:
            line.detach()
            _dup2(fds[0], guest.STATUS_FD, inheritable=False)
            contents = program.take(cell["stdin"], cell["files"], fds[1:])
            for fd in fds:
                _close(fd)
            if contents.files:
                parcel.unpack(contents.files)
            return contents, cell["mode"]
        for fd in fds:
            _close(fd)
        _, status, usage = _wait4(pid, 0)
        end = {
            "code": os.waitstatus_to_exitcode(status),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "max_rss_mb": usage.ru_maxrss / 1024,
        }
        line.send(DIED + _dumps(end).encode())
