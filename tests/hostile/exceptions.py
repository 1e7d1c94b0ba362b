"""What is known not to be contained, tier by tier, and why. The test asserts that nothing else escapes.

``always`` ones must really fail, so that this list cannot outlive its reasons; the others depend on the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.hostile.model import Hostile

__all__ = ["Known", "every", "known"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """One program, or a whole category, that a tier does not contain."""

    what: str
    why: str
    always: bool = False


_SOCKETS: Final = Known(
    what="socket-buffers", why="socket buffers are memory of the kernel, bounded only by the number of descriptors"
)
_ON_DISK: Final = (
    Known(
        what="fills-the-disk", why="without a file system of its own only the size of each file is limited", always=True
    ),
    Known(
        what="uses-up-inodes", why="without a file system of its own the number of files is not limited", always=True
    ),
)
_READER: Final = Known(
    what="born-with-capabilities",
    why="where the interpreter lies in a directory that only root may enter, programs may read past permissions; "
    "Landlock still says which files",
)
_SAME_USER: Final = (
    Known(what="uses-up-tasks", why="an ordinary user's programs share one count of tasks without user namespaces"),
    Known(
        what="reads-its-own-output",
        why="with /proc in sight and the caller's user, a program may take back what nobody has read yet of its output",
    ),
)
_UNSAFE: Final = tuple(
    Known(what=what, why="T3 limits resources and isolates from nothing")
    for what in ("files", "kernel", "neighbours", "network", "secrets", "sysv-segment")
)

_EXCEPTIONS: Final[Mapping[str, tuple[Known, ...]]] = {
    "T1": (),
    "T1'": (),
    "T2": (*_ON_DISK, _READER, *_SAME_USER),
    "T3": (_SOCKETS, *_ON_DISK, _READER, *_SAME_USER, *_UNSAFE),
}


def known(tier: str, program: Hostile) -> Known | None:
    """The declared exception for ``program`` at ``tier``."""
    return next((one for one in _EXCEPTIONS.get(tier, ()) if one.what in (program.name, program.category)), None)


def every() -> Iterator[Known]:
    """All of them, at any tier."""
    for declared in _EXCEPTIONS.values():
        yield from declared
