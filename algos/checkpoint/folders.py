"""The names below ``checkpoints/``, and how a folder gets one.

Whatever is written has a temporary name (``.NAME.tmp``) until all of it is there, whatever is removed gets one first.
A folder that is replaced waits as ``.NAME.old`` until the new one has its name. So a process that is killed leaves
complete folders under proper names, and :func:`recover` puts the rest in order.

Left out: what is safe after a power failure; nothing is flushed to the disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from algos.checkpoint.position import Record

__all__ = ["BEST", "latest", "publish", "recover", "rotate", "temporary"]

BEST = "best"
FINAL = "final"
STEPS = "step-[0-9]*"


def latest(root: Path) -> Path | None:
    """The checkpoint to resume from, the one that is furthest; ``None`` when there is none yet.

    ``final`` need not be: a run that ended, was resumed with more steps and killed has a newer ``step-*`` beside it.

    Raises:
        UsageError: both are there and one of them cannot be read.
    """
    ends = [*_steps(root)[-1:], *([root / FINAL] if (root / FINAL).is_dir() else [])]
    if len(ends) < 2:
        return ends[0] if ends else None
    return max(reversed(ends), key=lambda folder: Record.read(folder).step)  # of equals the first, which is final


def temporary(folder: Path) -> Path:
    """What a checkpoint is called while it is written; the same on every rank."""
    return folder.with_name(f".{folder.name}.tmp")


def publish(folder: Path) -> None:
    """Give the complete folder that lies under the temporary name its own."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.rename(old)
    temporary(folder).rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def rotate(root: Path, *, keep: int) -> None:
    """Remove all ``step-*`` but the last ``keep``."""
    assert keep > 0, "one has to stay"
    for folder in _steps(root)[:-keep]:
        shutil.rmtree(folder.rename(temporary(folder)))


def recover(root: Path) -> None:
    """Put in order what a killed process left; nobody else may be writing."""
    for old in root.glob(".*.old"):
        folder = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for stray in root.glob(".*.tmp"):
        if stray.is_dir():
            shutil.rmtree(stray)
        else:
            stray.unlink()


def _steps(root: Path) -> list[Path]:
    return sorted(root.glob(STEPS), key=lambda folder: (len(folder.name), folder.name))
