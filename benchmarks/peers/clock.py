"""What the learners of ``benchmarks/learning.py`` share: a clock that stands still while they are being examined.

After a step a learner writes its weights into a folder that it was given and says so in one line of JSON on standard
output, ``{"step", "cpu", "wall", "folder"}``. Whoever started it evaluates the weights and answers with the number of
steps until the next time; 0 ends it. Neither the writing nor the waiting counts. What counts begins when training
does: imports do not, and loading the checkpoint only where the trainer does it as part of training.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from driver import cpu_seconds, descendants_cpu_seconds


class Clock:
    """CPU and wall seconds of this process and all its descendants, without the examinations.

    Args:
        folder: gets the weights.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._next = folder, 1
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what libraries print must not come between
        self._cpu = self._wall = 0.0
        self._begun = _now()

    def start(self) -> None:
        """Training begins now."""
        self._begun = _now()

    def examine(self, step: int, save: Callable[[Path], object]) -> bool:
        """Whether to go on after ``step``; stands still while others look at the weights that ``save`` writes."""
        if step < self._next:
            return True
        cpu, wall = _now()
        self._cpu, self._wall = self._cpu + cpu - self._begun[0], self._wall + wall - self._begun[1]
        save(self._folder)
        told = {"step": step, "cpu": self._cpu, "wall": self._wall, "folder": str(self._folder)}
        print(json.dumps(told), file=self._answers)
        steps = int(sys.stdin.readline())
        self._next = step + steps
        self._begun = _now()
        return steps > 0


def _now() -> tuple[float, float]:
    return cpu_seconds() + descendants_cpu_seconds(), time.perf_counter()
