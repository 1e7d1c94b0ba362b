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

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from retool_env.errors import UsageError

__all__ = ["atomic", "lock_folder"]

_PATIENCE, _PAUSE = 5.0, 0.05  # seconds
_log = logging.getLogger(__name__)


def lock_folder(folder: Path) -> IO[bytes]:
    """A file in ``folder`` that no other process can lock while this one lives, whatever becomes of its children.

    Closing the file, or dropping it, gives the lock back. A process that is being killed is given some seconds to be
    gone. Where the file system has no locks, a warning says so.

    Raises:
        UsageError: another process has it, or the folder cannot be written to.
    """
    try:
        file = (folder / ".lock").open("wb")
    except OSError as error:
        raise UsageError(f"out={str(folder)!r} cannot be written ({error.strerror})") from error
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # EAGAIN or EACCES, as the system likes
            if time.monotonic() < until:
                time.sleep(_PAUSE)
                continue
            file.close()
            said = f"out={str(folder)!r}: another process is writing there; wait for it, or end it"
            raise UsageError(said) from error
        except OSError as error:
            _log.warning("%s cannot be locked (%s): see that nothing else writes there", folder, error.strerror)
        return file


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
