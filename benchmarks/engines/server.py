"""An SGLang server that runs already, as one more engine: its processes' CPU time counts beside this one's."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU seconds, user and system, of a process and everything below it that is alive."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        stats[int(path.parent.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS)
    total, family = 0.0, [pid]
    while family:
        parent = family.pop()
        total += stats[parent][1]
        family += [child for child, (above, _) in stats.items() if above == parent]
    return total
