"""Processes below one of ours, as a test that wants to kill them finds them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def below(root: int) -> dict[int, str]:
    """Command lines of the living descendants of process ``root``, parents before children."""
    parents, lines = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
                lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    found, generation = {}, {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        found |= {pid: lines[pid] for pid in sorted(generation)}
    return found


def ray_workers(root: int) -> list[int]:
    """The rollout workers of a run of process ``root`` that started its own Ray; they name themselves."""
    return [pid for pid, line in below(root).items() if line.startswith("ray::RolloutWorker")]


def sandboxes(root: int) -> list[int]:
    """Every process of the sandboxes below process ``root``, a zygote before its forks: they share its command line."""
    return [pid for pid, line in below(root).items() if "zygote.main(" in line]
