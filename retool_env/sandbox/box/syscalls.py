"""System calls that the standard library does not offer, through ctypes.

Every function raises ``OSError`` with the name of the call, so that a refusal by the host can be reported as such.
Nothing here decides anything.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final

__all__ = [
    "ARCHITECTURE",
    "collapse",
    "drop_capabilities",
    "keep_only_reading",
    "landlock_add_path",
    "landlock_create",
    "landlock_restrict",
    "landlock_version",
    "mount",
    "mount_read_only",
    "pin",
    "pivot_root",
    "prctl",
    "seccomp_install",
    "setns",
    "umount",
    "unshare",
]

ARCHITECTURE: Final = platform.machine()

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.syscall.restype = ctypes.c_long

_PIVOT_ROOT: Final = 155 if ARCHITECTURE == "x86_64" else 41
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_IO_URING_SETUP, _IO_URING_REGISTER, _REGISTER_BUFFERS, _PARAMETERS = 425, 427, 0, 120
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_PR_SET_SECCOMP, _PR_CAP_AMBIENT, _SECCOMP_MODE_FILTER, _MADV_COLLAPSE = 22, 47, 2, 25
_CAPABILITY_VERSION_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()
_DAC_READ_SEARCH: Final = 2
_ONLY_READING = (ctypes.c_uint32 * 6)(*[1 << _DAC_READ_SEARCH] * 3, 0, 0, 0)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: {what}")
    return result


def _call(what: str, number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments), what)


def unshare(flags: int) -> None:
    """Leave some namespaces for new ones."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace that ``fd`` refers to."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(_libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]), f"mount {kind or source} on {target}")


def umount(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


def mount_read_only(target: str) -> None:
    """Make a mount and those below it read-only, without devices and set-user-id. Linux 5.12."""
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, 0, 0, 0)
    path = ctypes.c_char_p(os.fsencode(target))
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = ctypes.c_uint(_AT_RECURSIVE)
    _call("mount_setattr", _MOUNT_SETATTR, ctypes.c_int(_AT_FDCWD), path, flags, ctypes.byref(attributes), size)


def pivot_root() -> None:
    """The working directory becomes the root; the old root is stacked on top of it, to be unmounted."""
    _call("pivot_root", _PIVOT_ROOT, ctypes.c_char_p(b"."), ctypes.c_char_p(b"."))


def prctl(option: int, value: int, third: int = 0) -> None:
    """prctl(2) with up to three arguments."""
    _check(_libc.prctl(option, value, third, 0, 0), f"prctl({option}, {value})")


def drop_capabilities() -> None:
    """Give up every capability."""
    _check(_libc.capset(_CAPABILITY_VERSION_3, _NO_CAPABILITIES), "capset")


def keep_only_reading() -> None:
    """Hold on to CAP_DAC_READ_SEARCH alone, also across an exec."""
    _check(_libc.capset(_CAPABILITY_VERSION_3, _ONLY_READING), "capset")
    prctl(_PR_CAP_AMBIENT, 2, _DAC_READ_SEARCH)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def seccomp_install(program: bytes) -> None:
    """Add a filter program (8 bytes an instruction) to this process and its future children."""
    text = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.cast(text, ctypes.c_void_p))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header))


def landlock_version() -> int:
    """The kernel's Landlock version, 0 when there is none or it is switched off."""
    version: int = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, version)


def landlock_create(attributes: bytes) -> int:
    """A new rule set that handles what ``attributes`` say; its descriptor."""
    size = ctypes.c_size_t(len(attributes))
    return _call("landlock_create_ruleset", _LANDLOCK_CREATE, ctypes.c_char_p(attributes), size, ctypes.c_uint(0))


def landlock_add_path(ruleset: int, rule: bytes) -> None:
    """Allow what ``rule`` says below a path."""
    what = ctypes.c_char_p(rule)
    _call("landlock_add_rule", _LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), what, ctypes.c_uint(0))


def landlock_restrict(ruleset: int) -> None:
    """Put this process and its future children under the rule set."""
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))


def collapse(start: int, length: int) -> bool:
    """Back a range of memory with a huge page now (Linux 6.1); whether it worked."""
    return int(_libc.madvise(start, length, _MADV_COLLAPSE)) == 0


def pin(ranges: Sequence[tuple[int, int]]) -> None:
    """Pin ranges of memory, each an address and a length, until this process ends or closes all its descriptors."""
    parameters = ctypes.create_string_buffer(_PARAMETERS)
    ring = _call("io_uring_setup", _IO_URING_SETUP, ctypes.c_uint(1), parameters)
    vector = b"".join(struct.pack("=QQ", start, length) for start, length in ranges)
    arguments = (ctypes.c_int(ring), ctypes.c_uint(_REGISTER_BUFFERS), ctypes.c_char_p(vector))
    try:
        _call("io_uring_register", _IO_URING_REGISTER, *arguments, ctypes.c_uint(len(ranges)))
    except OSError:
        os.close(ring)
        raise
