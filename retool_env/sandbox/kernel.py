"""What the zygote asks the kernel about its children, and how it kills them.

Every answer here is about processes that are our children and not reaped yet, so that no number can mean a stranger.
Standard library only, because the zygote loads this file by path. Left out: limits that the kernel enforces by
itself (``confine``).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

__all__ = ["address_space", "children", "cpu_seconds", "kill_group", "oom_kills"]


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process: the clock that ``clock_getcpuclockid(3)`` would name."""
    return time.clock_gettime((~pid << 3) | 2)


def oom_kills() -> int:
    """How often the kernel ran out of memory and killed something, since boot."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def address_space() -> int:
    """Bytes of address space of this process, in the kernel's count that RLIMIT_AS is compared with."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


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
