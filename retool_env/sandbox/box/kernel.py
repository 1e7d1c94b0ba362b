"""What the zygote asks the kernel about its children, and how it kills them.

Every answer here is about processes that are our children and not reaped yet, so that no number can mean a stranger.
Left out: limits that the kernel enforces by itself (``confine``) and those that need a clock (``meter``).
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from pathlib import Path

from . import syscalls

__all__ = ["Counters", "become_reaper", "children", "kill_group"]

_PR_SET_CHILD_SUBREAPER = 36


class Counters:
    """Two of the kernel's numbers, from files that stay open when ``/proc`` is gone."""

    def __init__(self) -> None:
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._events = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)

    def address_space(self) -> int:
        """Bytes of address space of this process, in the kernel's count that RLIMIT_AS is compared with."""
        return int(os.pread(self._memory, 4096, 0).split()[0]) * resource.getpagesize()

    def oom_kills(self) -> int:
        """How often the kernel ran out of memory and killed something, since boot."""
        found = re.search(rb"^oom_kill (\d+)$", os.pread(self._events, 1 << 16, 0), re.MULTILINE)
        return int(found[1]) if found else 0


def become_reaper() -> None:
    """Adopt the orphans among one's descendants, so that a daemon does not slip away to process 1."""
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """This process's children, adopted and dead ones included."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except FileNotFoundError:
        # A kernel without CONFIG_PROC_CHILDREN: then only the process groups are killed.
        return []


def kill_group(pid: int) -> None:
    """Kill a child, and the process group that it leads."""
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
