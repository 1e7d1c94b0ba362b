"""Files in and out, as one stream of bytes: a line of JSON with names and sizes, then the contents.

Both ends run without power inside of the box: ``unpack`` before the program starts, ``pack`` after it ended. What the
caller reads came from a hostile program's directory, so :func:`parse` trusts no number in it. Only regular files
travel, without following links, up to :data:`MOST_BYTES` in all; one that is left out for its size stands in the first
line with ``null`` as its size.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["MOST_BYTES", "Parcel", "pack", "parse", "serialise", "unpack"]

MOST_BYTES: Final = 32 << 20
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Parcel(NamedTuple):
    """What a stream holds: the files, and the names of those that were too large for it."""

    files: dict[str, bytes]
    left_out: list[str]


class _TooLargeError(Exception):
    """A file that is there does not fit."""


def serialise(files: Mapping[str, bytes], left_out: Iterable[str] = ()) -> bytes:
    """The stream."""
    sizes = [[name, len(data)] for name, data in files.items()]
    head = json.dumps([*sizes, *([name, None] for name in left_out)]).encode()
    return b"\n".join((head, b"".join(files.values())))


def parse(stream: bytes) -> Parcel:
    """The contents of a stream. Raises ``ValueError`` for anything that :func:`serialise` does not write."""
    head, newline, body = stream.partition(b"\n")
    files, left_out = Parcel({}, [])
    if not newline:
        return Parcel(files, left_out)
    position = 0
    for name, size in json.loads(head):
        if isinstance(name, str) and size is None:
            left_out.append(name)
            continue
        if not isinstance(name, str) or not isinstance(size, int) or not 0 <= size <= len(body) - position:
            raise ValueError("broken file parcel")
        files[name] = body[position : position + size]
        position += size
    return Parcel(files, left_out)


def unpack(stream: bytes) -> None:
    """Write the files below the working directory."""
    for name, data in parse(stream).files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _read(name: str, most: int) -> bytes | None:
    """The contents; ``None`` when there is no such file. Raises :class:`_TooLargeError`."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(name, _FLAGS)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                if found.st_size > most:
                    raise _TooLargeError
                return file.read(most)
    return None


def pack(names: Iterable[str]) -> bytes:
    """The stream of those files that are there, and fit behind those before them."""
    files, left_out = Parcel({}, [])
    left = MOST_BYTES
    for name in names:
        try:
            data = _read(name, left)
        except _TooLargeError:
            left_out.append(name)
            continue
        if data is not None:
            files[name] = data
            left -= len(data)
    return serialise(files, left_out)
