"""Files and folders that are there complete, or not at all.

Contract: what a block writes to the temporary path takes the place of the old one when the block ends, in one step for
a file. A folder that is replaced is removed first, so for a moment there is none.
Left out: what is safe after a power failure; nothing is flushed to the disk.

>>> target = Path("numbers.txt")
>>> with atomic(target) as temporary:
...     _ = temporary.write_text("1 2 3")
...     target.exists()
False
>>> target.read_text()
'1 2 3'
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retool_env.errors import UsageError

__all__ = ["atomic"]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    The block makes a file or a folder there; folders above it are made here.

    Raises:
        UsageError: the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)  # left by a killed process that had our number
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written ({error.strerror})") from error
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
