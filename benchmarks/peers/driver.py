"""What every player of ``benchmarks/environment.py`` shares: it serves orders on standard input and counts CPU time.

Standard library only, as it runs in the peers' own environments. An order is one line of JSON, ``[case, seconds]``; the
answer one line too, ``{"steps", "cpu", "wall"}``, for as many episodes as began within so many seconds.

CPU time is user and system time of this process, of the children it has waited for, and of every living descendant
with those *it* has waited for, so that process pools, servers and fork servers are in. The kernel tells the latter in
hundredths of a second, which is why a measurement should take seconds. A descendant that left the tree is not seen.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ANSWERS = [rf"After {n} checks, the product is \boxed{{391}}." for n in range(1, 1000)]
"""One after the other, so that nobody gains by remembering the last text."""

CODE = "print(17 * 23)"
GOLD = "391"
QUESTION = "What is 17 * 23?"
AT_ONCE = 16
NUM_SAMPLES = 128  # of one evaluation

Play = Callable[[], int]
"""Plays an episode or several, checks that the answer was taken for right, and returns the number of steps."""


def answers() -> Iterator[str]:
    """Right answers without end."""
    return itertools.cycle(ANSWERS)


_TICK = os.sysconf("SC_CLK_TCK")
_SETTLE = 0.05


def cpu_seconds() -> float:
    """CPU time of this process and of the children that it has waited for."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in own)


def descendants_cpu_seconds() -> float:
    """CPU time of every living descendant and of those that it has waited for."""
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(entry)):
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = sum(map(int, fields[11:15])) / _TICK
    ours, found = {os.getpid()}, 0
    while len(ours) > found:
        found = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    return sum(spent[pid] for pid in ours - {os.getpid()})


def _stat(process: Path) -> list[str]:
    """Its fields from the state on; none when it has just ended."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _measure(play: Play, seconds: float) -> dict[str, float]:
    play()
    time.sleep(_SETTLE)
    # Looking at the descendants costs CPU time, which must not fall in between.
    theirs, own = descendants_cpu_seconds(), cpu_seconds()
    start, steps = time.perf_counter(), 0
    while (wall := time.perf_counter() - start) < seconds:
        steps += play()
    time.sleep(_SETTLE)  # what was still under way in other processes belongs to it
    spent = cpu_seconds() - own + descendants_cpu_seconds() - theirs
    return {"steps": steps, "cpu": spent, "wall": wall}


def serve(cases: Mapping[str, Play]) -> None:
    """Name the cases, then measure as told until standard input ends. Prints of the players go to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps(list(cases)), file=answers)
    for line in sys.stdin:
        case, seconds = json.loads(line)
        print(json.dumps(_measure(cases[case], seconds)), file=answers)
