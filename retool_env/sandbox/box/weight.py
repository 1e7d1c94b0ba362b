"""How much memory the processes of one program hold together, as the host's ``/proc`` tells it.

RLIMIT_AS bounds each process; a program that may start others needs a bound on their sum, which without a control
group nobody enforces. So the zygote weighs such programs, the more often the closer they are to their limit. Shared
pages count in proportion (PSS), so what was inherited from the warm interpreter or from a parent counts once. Between
two looks a program can grow by what its processors can write meanwhile; that is the tolerance.

Left out: file system and kernel buffers, which have limits of their own.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

__all__ = ["megabytes", "next_look"]

_FASTEST_GROWTH: Final = 16_000.0
_SHORTEST, _LONGEST = 0.002, 0.1
_MOST_PROCESSES: Final = 256


def _read(proc: int, path: str) -> str:
    with contextlib.suppress(OSError), open(os.open(path, os.O_RDONLY, dir_fd=proc)) as file:
        return file.read()
    return ""


def _descendants(proc: int, pid: str) -> list[str]:
    """A process and those below it, in the host's numbers. Orphans stay below the first process of a namespace."""
    found = [pid]
    for parent in found:
        tasks: list[str] = []
        with contextlib.suppress(OSError):
            fd = os.open(f"{parent}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
            tasks = os.listdir(fd)
            os.close(fd)
        for task in tasks:
            found += _read(proc, f"{parent}/task/{task}/children").split()
        if len(found) > _MOST_PROCESSES:
            break
    return found


def _weight(proc: int, pid: str) -> float:
    for line in _read(proc, f"{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def megabytes(proc: int, pidfd: int) -> float:
    """Memory in MiB of a child of ours and everything below it; 0 where the host does not tell."""
    info = _read(proc, f"self/fdinfo/{pidfd}")
    pid = next((line.split()[1] for line in info.splitlines() if line.startswith("Pid:")), "")
    return sum(_weight(proc, one) for one in _descendants(proc, pid)) if pid.isdigit() and pid != "0" else 0.0


def next_look(free_mb: float) -> float:
    """Seconds after which the program could have grown by what it has left."""
    return min(max(free_mb / _FASTEST_GROWTH, _SHORTEST), _LONGEST)
