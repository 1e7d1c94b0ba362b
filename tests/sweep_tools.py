"""What tests of sweeps share: the command in a process, its cells' records and processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from retool_env.sweeps import CellRecord, read_cells

__all__ = ["by_label", "processes_of", "retool", "subprocess_of", "wait_for"]


def retool(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retool_env.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def subprocess_of(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """The command, running."""
    command = [sys.executable, "-m", "retool_env.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)


def by_label(folder: Path) -> dict[str, CellRecord]:
    return {record.label: record for record in read_cells(folder).values()}


def wait_for(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def processes_of(sweep: Path, cell: str = "") -> list[int]:
    """Processes of the cells of a sweep that was started in the folder above it, or of one cell."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            here = (entry / "cwd").readlink()
        except OSError:
            continue
        if "retool_env.sweeps.process" in line and here == sweep.parent and f"out='{sweep.name}/{cell}" in line:
            found.append(int(entry.name))
    return sorted(found)
