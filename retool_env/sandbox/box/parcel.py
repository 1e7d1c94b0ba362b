"""Files in and out, as one stream of bytes: a line of JSON with names and sizes, then the contents.

Both ends run without power inside of the box: ``unpack`` before the program starts, ``pack`` after it ended. What the
caller reads came from a hostile program's directory, so :func:`parse` trusts no number in it. Only regular files
travel, without following links, up to :data:`MOST_BYTES` in all.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

__all__ = ["MOST_BYTES", "pack", "parse", "serialise", "unpack"]

MOST_BYTES: Final = 32 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def serialise(files: Mapping[str, bytes]) -> bytes:
    """The stream."""
    head = json.dumps([[name, len(data)] for name, data in files.items()]).encode()
    return b"\n".join((head, b"".join(files.values())))


def parse(stream: bytes) -> dict[str, bytes]:
    """The files in a stream. Raises ``ValueError`` for anything that :func:`serialise` does not write."""
    head, newline, body = stream.partition(b"\n")
    files: dict[str, bytes] = {}
    if not newline:
        return files
    position = 0
    for name, size in json.loads(head):
        if not isinstance(name, str) or not isinstance(size, int) or not 0 <= size <= len(body) - position:
            raise ValueError("broken file parcel")
        files[name] = body[position : position + size]
        position += size
    return files


def unpack(stream: bytes) -> None:
    """Write the files below the working directory."""
    for name, data in parse(stream).items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _read(name: str, most: int) -> bytes | None:
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(name, _FLAGS)
        with open(fd, "rb") as file:
            if stat.S_ISREG(os.fstat(fd).st_mode) and os.fstat(fd).st_size <= most:
                return file.read(most)
    return None


def pack(names: Iterable[str]) -> bytes:
    """The stream of those files that are there and fit."""
    files: dict[str, bytes] = {}
    left = MOST_BYTES
    for name in names:
        data = _read(name, left)
        if data is not None:
            files[name] = data
            left -= len(data)
    return serialise(files)
