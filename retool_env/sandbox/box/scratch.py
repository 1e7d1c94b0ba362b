"""Remove a directory tree that a program has filled, whatever it did there.

``shutil.rmtree`` recurses, so a tree a few thousand levels deep ends it; a path that long is not even a valid
argument; and a directory without permissions stops it. Here every directory found is first moved to the top, under a
name of its own, and emptied there: no recursion, no long path, one descriptor at a time. Links are removed and never
followed. Standard library only, because the zygote loads this file by path.

Left out: processes that still write into the tree. They must be dead before; otherwise what they add may stay.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["remove_tree"]


def _empty(top: int, folder: str, names: Iterator[str]) -> list[str]:
    """Unlink the files in ``folder``, move its directories up into ``top``; the new names of those."""
    # Permissions first: to list it, and below to move it, which rewrites its entry "..".
    os.chmod(folder, 0o700, dir_fd=top)
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    moved = []
    try:
        with os.scandir(inside) as entries:
            found = list(entries)
        for entry in found:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=inside)
                continue
            os.chmod(entry.name, 0o700, dir_fd=inside)
            moved.append(next(names))
            os.rename(entry.name, moved[-1], src_dir_fd=inside, dst_dir_fd=top)
    finally:
        os.close(inside)
    return moved


def _flatten(top: int, root: str) -> None:
    names = (f"{root}~{number}" for number in itertools.count())
    todo = [root]
    while todo:
        folder = todo.pop()
        todo += _empty(top, folder, names)
        os.rmdir(folder, dir_fd=top)


def remove_tree(path: Path) -> None:
    """Remove ``path`` and everything below it; silent when another process is faster or holds on to a part."""
    with contextlib.suppress(OSError):
        # Nearly every program leaves its directory empty.
        path.rmdir()
        return
    with contextlib.suppress(OSError):
        top = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _flatten(top, path.name)
        finally:
            os.close(top)
