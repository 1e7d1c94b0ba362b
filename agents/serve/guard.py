"""Stands between a supervisor and one server, so that the server's processes never outlive either of them.

``python guard.py PARENT GRACE COMMAND...`` runs the command and ends with its exit code (128 + signal when a signal
ended it). Whatever happens first: the command ends, a SIGTERM arrives, or the process ``PARENT`` is gone, even by
SIGKILL, the guard ends the command and **every** process it has left behind. It can see them all because it is their
subreaper: an orphan becomes the guard's child, also one that has moved to another session. The command gets a SIGTERM
and ``GRACE`` seconds to finish; a SIGINT to the guard means at once. If the guard itself is killed, the kernel kills
the command; the rest then is up to the supervisor, which kills the process group.

The guard runs by its file name in an isolated interpreter: it imports the standard library only. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["main"]

_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_HANDLED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: preexec_fn must not load anything


def main(arguments: list[str]) -> int:
    """Run ``PARENT GRACE COMMAND...``; returns the exit code of the command."""
    parent, grace, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    _LIBC.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in _HANDLED:
        signal.signal(number, lambda *_: None)  # something must handle it, or the byte is not written
    try:
        life = os.pidfd_open(parent)
    except ProcessLookupError:
        return 128 + signal.SIGKILL
    if os.getppid() != parent:  # it died before we looked, and its number may belong to somebody else by now
        return 128 + signal.SIGKILL
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    _watch(process, life, wake, grace)
    with contextlib.suppress(OSError):
        process.kill()
    code = process.wait()
    _end_orphans()
    return code if code >= 0 else 128 - code


def _die_with_guard() -> None:
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def _watch(process: subprocess.Popen[bytes], life: int, wake: int, grace: float) -> None:
    """Until the command has ended, or has to be killed."""
    deadline = None
    while process.poll() is None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return
        ready, _, _ = select.select([wake] if deadline else [wake, life], [], [], left)
        signals = os.read(wake, 256) if wake in ready else b""
        if signal.SIGINT in signals:
            return
        if deadline is None and (life in ready or signal.SIGTERM in signals or signal.SIGHUP in signals):
            process.terminate()
            deadline = time.monotonic() + grace


def _end_orphans() -> None:
    """Kill children until there are none; the death of one makes its own children ours."""
    while True:
        for pid in _children():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name of the program, in brackets, may hold anything; the fields behind it cannot.
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.append(int(entry.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
