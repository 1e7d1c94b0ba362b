"""What a sandbox has done so far, in numbers: for a log, a monitor, or a person who wonders why it is slow."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from retool_env.sandbox.base import RunResult

__all__ = ["Recorder", "SandboxMetrics"]


@dataclass(frozen=True, kw_only=True)
class SandboxMetrics:
    """Counts and sums since the sandbox was made, but for ``running``, ``waiting`` and ``sessions``, which are now.

    Attributes:
        runs: finished runs and cells by status.
        faults: those that ended as ``sandbox_error`` by cause.
        running: places taken.
        waiting: callers in the queue.
        sessions: sessions open.
        queue_seconds: time spent waiting for a place, summed over runs.
        wall_seconds: time of the programs, summed over runs.
        cpu_seconds: processor time of the programs, summed over runs.
        zygote_starts: interpreters started.
        zygote_losses: of these, how many were lost or did not come up.
    """

    runs: Mapping[str, int]
    faults: Mapping[str, int]
    running: int
    waiting: int
    sessions: int
    queue_seconds: float
    wall_seconds: float
    cpu_seconds: float
    zygote_starts: int
    zygote_losses: int


class Recorder:
    """Adds results up. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._queue = self._wall = self._cpu = 0.0

    def add(self, result: RunResult) -> None:
        with self._lock:
            self._runs[result.status.value] += 1
            if result.fault:
                self._faults[result.fault] += 1
            self._queue += result.queue_seconds
            self._wall += result.wall_seconds
            self._cpu += result.cpu_seconds

    def metrics(self, *, running: int, waiting: int, sessions: int, starts: int, losses: int) -> SandboxMetrics:
        with self._lock:
            return SandboxMetrics(
                runs=dict(self._runs),
                faults=dict(self._faults),
                running=running,
                waiting=waiting,
                sessions=sessions,
                queue_seconds=self._queue,
                wall_seconds=self._wall,
                cpu_seconds=self._cpu,
                zygote_starts=starts,
                zygote_losses=losses,
            )
