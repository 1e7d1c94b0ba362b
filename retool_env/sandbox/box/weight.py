"""How much memory the processes of one program hold together, as the host's ``/proc`` tells it.

RLIMIT_AS bounds each process; a program that may start others needs a bound on their sum, which without a control
group nobody enforces. So the zygote weighs such programs, the more often the closer they are to their limit. Shared
pages count in proportion (PSS), so what was inherited from the warm interpreter or from a parent counts once. Between
two looks a program can grow by what its processors can write meanwhile; that is the tolerance.

A look at a hundred processes takes the zygote 50 ms of processor, and much longer by the clock where all of them want
to run too. So it comes in portions (:class:`Scale`), between which the zygote sees to its time limits and to others.

Left out: file system and kernel buffers, which have limits of their own.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from typing import Final

__all__ = ["Scale"]

_FASTEST_GROWTH: Final = 16_000.0
_SHORTEST, _LONGEST = 0.002, 0.1
_PORTION_SECONDS: Final = 0.004
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


def _weights(proc: int, pidfd: int) -> Iterator[float]:
    """MiB of a child of ours and of everything below it, process by process; none where the host does not tell."""
    info = _read(proc, f"self/fdinfo/{pidfd}")
    pid = next((line.split()[1] for line in info.splitlines() if line.startswith("Pid:")), "")
    if pid.isdigit() and pid != "0":
        for one in _descendants(proc, pid):
            yield _weight(proc, one)


class Scale:
    """Weighs one program, a portion of its processes at a time.

    Attributes:
        due: when to go on, on the monotonic clock; never without a limit.
    """

    def __init__(self, *, proc: int, pidfd: int, most_mb: float) -> None:
        self._proc, self._pidfd, self._most_mb = proc, pidfd, most_mb
        self._left: Iterator[float] = iter(())
        self._sum = math.inf
        self.due = time.monotonic() if math.isfinite(most_mb) else math.inf

    def too_heavy(self) -> bool:
        """Go on weighing for a moment; whether what was seen in this look is more than the limit already."""
        if math.isinf(self._sum):
            self._left, self._sum = _weights(self._proc, self._pidfd), 0.0
        pause_at = time.monotonic() + _PORTION_SECONDS
        for weight in self._left:
            self._sum += weight
            if self._sum > self._most_mb:
                return True
            if time.monotonic() >= pause_at:
                self.due = time.monotonic()
                return False
        # As long as the program could take to grow by what it has left.
        pause = min(max((self._most_mb - self._sum) / _FASTEST_GROWTH, _SHORTEST), _LONGEST)
        self.due, self._sum = time.monotonic() + pause, math.inf
        return False
