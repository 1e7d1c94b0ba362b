"""Landlock: what of the file system a program may open, no TCP, and no signals or abstract sockets to the outside.

A second wall behind the mount namespace, and the first one where the host refuses namespaces. It does not cover
reading metadata (``stat``), nor changes of mode, owner and times; ``seccomp`` does where that matters. Source:
landlock(7); rights that a kernel's version does not know yet are left out.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final

from . import syscalls

__all__ = ["Landlock"]

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_RIGHTS_OF_VERSION: Final = {1: 13, 2: 14, 3: 15, 4: 15}
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR


class Landlock:
    """The rules that are the same for every program; only its own directory is added for each.

    Args:
        readable: paths below which everything may be read and executed.
        devices: files that may be read and written.
    """

    def __init__(self, readable: Iterable[str], devices: Iterable[str]) -> None:
        self.version = syscalls.landlock_version()
        self._all = (1 << _RIGHTS_OF_VERSION.get(self.version, 16)) - 1
        attributes = [self._all]
        if self.version >= 4:
            attributes.append(0b11)  # bind and connect of TCP
        if self.version >= 6:
            attributes.append(0b11)  # abstract Unix sockets and signals
        self._attributes = struct.pack(f"={len(attributes)}Q", *attributes)
        self._rules = [self._rule(path, _READ) for path in readable if os.path.isdir(path)]
        self._rules += [self._rule(path, _READ_FILE) for path in readable if os.path.isfile(path)]
        self._rules += [self._rule(path, _READ_FILE | _WRITE_FILE) for path in devices if os.path.exists(path)]

    def _rule(self, path: str, rights: int) -> bytes:
        return struct.pack("=Qi", rights & self._all, os.open(path, os.O_PATH | os.O_CLOEXEC))

    def restrict(self, scratch: str) -> None:
        """Put this process under the rules, with full rights below ``scratch`` but for making devices."""
        ruleset = syscalls.landlock_create(self._attributes)
        own = os.open(scratch, os.O_PATH | os.O_CLOEXEC)
        for rule in self._rules:
            syscalls.landlock_add_path(ruleset, rule)
        syscalls.landlock_add_path(ruleset, struct.pack("=Qi", self._all & ~(_MAKE_CHAR | _MAKE_BLOCK), own))
        syscalls.landlock_restrict(ruleset)
        os.close(own)
        os.close(ruleset)
