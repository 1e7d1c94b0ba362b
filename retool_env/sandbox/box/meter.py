"""When one program must be stopped: processor seconds decide, the wall clock is a backstop.

Processor time is read from the kernel's own clock of the process, which is finer than RLIMIT_CPU's whole seconds. At
the wall limit, time that the program spent waiting for a processor is given back to it, up to
:data:`MOST_PATIENCE` times the limit: on a busy machine a program is not slower than it is. Where the kernel does not
tell that time, the wall limit is plain.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from typing import Final

from .weight import Scale
from .wire import Why

__all__ = ["MOST_PATIENCE", "Meter", "cpu_seconds"]

MOST_PATIENCE: Final = 10
_FINEST_CHECK: Final = 0.005


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process: the clock that ``clock_getcpuclockid(3)`` would name."""
    return time.clock_gettime((~pid << 3) | 2)


def _seconds_waited(proc: int, pidfd: int) -> float:
    """How long a process was ready to run and was not let; 0 where the kernel does not say."""
    try:
        # Its number in the host's eyes: in our own PID namespace it has another one.
        with open(os.open(f"self/fdinfo/{pidfd}", os.O_RDONLY, dir_fd=proc)) as file:
            pid = next(line.split()[1] for line in file if line.startswith("Pid:"))
        with open(os.open(f"{pid}/schedstat", os.O_RDONLY, dir_fd=proc)) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, StopIteration, ValueError, IndexError):
        return 0.0


@dataclass(kw_only=True)
class Meter:
    """The limits of one running program.

    Attributes:
        proc: the host's ``/proc`` as a descriptor.
        memory_mb: what all its processes together may hold; not looked at when infinite. Such a program gets no
            patience, as its own processes may be what it waits for.
    """

    pid: int
    pidfd: int
    cpu_limit: float
    wall_limit: float
    proc: int
    memory_mb: float = math.inf
    start: float = 0.0
    deadline: float = 0.0
    next_check: float = 0.0
    cpu_before: float = 0.0
    scale: Scale = field(init=False)

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.cpu_before = cpu_seconds(self.pid)
        self.deadline = self.start + self.wall_limit
        self.next_check = self.start + self.cpu_limit / 2
        self.scale = Scale(proc=self.proc, pidfd=self.pidfd, most_mb=self.memory_mb)

    @property
    def due(self) -> float:
        """When to look again."""
        return min(self.deadline, self.next_check, self.scale.due)

    def verdict(self) -> Why:
        """Whether the program has used up a limit."""
        now = time.monotonic()
        if now >= min(self.deadline, self.next_check) and (why := self._time_is_up(now)):
            return why
        return "memory" if now >= self.scale.due and self.scale.too_heavy() else ""

    def _time_is_up(self, now: float) -> Why:
        used = cpu_seconds(self.pid) - self.cpu_before
        if used >= self.cpu_limit:
            return "cpu"
        # Half of what is left, so that a few threads at once are still met near the limit.
        self.next_check = now + max((self.cpu_limit - used) / 2, _FINEST_CHECK)
        return "" if now < self.deadline or self._more_patience(now) else "wall"

    def _more_patience(self, now: float) -> bool:
        last = self.start + MOST_PATIENCE * self.wall_limit
        alone = math.isinf(self.memory_mb)
        waited = _seconds_waited(self.proc, self.pidfd) if alone else 0.0
        self.deadline = min(last, self.start + self.wall_limit + waited)
        return now < self.deadline
