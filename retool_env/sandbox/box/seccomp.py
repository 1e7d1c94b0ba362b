"""The system calls that a program may make: an allow-list, assembled to a classic BPF program.

What is not named is refused with EPERM, a number that this table does not know yet with ENOSYS (so that C libraries
fall back), a foreign architecture or the x32 table with death. Some calls depend on their arguments: no new
namespaces, no sockets but a Unix pair, no bigger buffers for these or for pipes (memory of the kernel that no limit
counts), no settings of other processes, no ``prctl`` but a thread's name.

``leashed`` is for hosts without a PID namespace, where the process group is the only leash: no leaving the group, no
signal but to oneself, and no change of owner, mode or times of files, which Landlock does not cover.

Sources: seccomp(2), the kernel's ``linux/filter.h`` and ``linux/seccomp.h``.
"""

from __future__ import annotations

import errno
import signal
import struct
from collections.abc import Iterable
from typing import Final, Literal

from .syscall_numbers import AARCH64, X86_64
from .syscalls import ARCHITECTURE

__all__ = ["POWERS", "Power", "build", "for_process", "supported"]

Power = Literal["alone", "forks", "processes"]
POWERS: Final[tuple[Power, ...]] = ("alone", "forks", "processes")
"""``alone``: threads only. ``forks``: copies of itself, no other programs. ``processes``: both."""

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""

_LOAD, _EQUAL, _AT_LEAST, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x25, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS: Final = {"x86_64": X86_64, "aarch64": AARCH64}
_X32_BIT: Final = 0x40000000
_FIRST_UNKNOWN: Final = 463

_NEW_NAMESPACES: Final = 0x7E020000
_CLONE_PARENT, _CLONE_THREAD = 0x8000, 0x10000
_AF_UNIX: Final = 1
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_F_SETPIPE_SZ: Final = 1031
_PRCTLS: Final = (15, 16, 3, 39)
"""Set and get the thread's name, get dumpable, get no_new_privs."""

_EXEC: Final = frozenset(("execve", "execveat"))
_STARTS_PROCESSES: Final = _EXEC | {"fork", "vfork", "pidfd_open", "pidfd_send_signal"}
_LEFT_OUT: Final[dict[Power, frozenset[str]]] = {
    "alone": _STARTS_PROCESSES,
    "forks": _EXEC,
    "processes": frozenset(),
}
_FILE_ATTRIBUTES: Final = frozenset(
    ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat")
)
_LEAVES_GROUP: Final = frozenset(("setsid", "setpgid", "tkill", "pidfd_send_signal"))
_PID_MARK: Final = 0x5EED5EED
"""Stands for the process's own number until :func:`for_process` puts it in."""


def supported() -> bool:
    """Whether the table knows this processor."""
    return ARCHITECTURE in _NUMBERS


def _refuse(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


_ALLOWED: Final[Instruction] = (_RETURN, 0, 0, _ALLOW)
_DENIED: Final[Instruction] = _refuse(errno.EPERM)
_UNKNOWN: Final[Instruction] = _refuse(errno.ENOSYS)


def _load_argument(index: int) -> Instruction:
    # The low half: none of the values compared here needs the high one.
    return (_LOAD, 0, 0, _ARGS_OFFSET + 8 * index)


def _one_of(index: int, values: Iterable[int], otherwise: Instruction = _DENIED) -> list[Instruction]:
    """Allow if an argument is among ``values``."""
    body = [_load_argument(index)]
    for value in values:
        body += [(_EQUAL, 0, 1, value), _ALLOWED]
    return [*body, otherwise]


def _clone(power: Power) -> list[Instruction]:
    body = [_load_argument(0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES | _CLONE_PARENT), _DENIED]
    if power == "alone":
        body += [(_ANY_BIT, 1, 0, _CLONE_THREAD), _DENIED]
    return [*body, _ALLOWED]


def _suicide(index_of_signal: int) -> list[Instruction]:
    """The first process of a namespace is immune to its own SIGKILL, so the filter does it (see ``zygote``)."""
    killed = (_RETURN, 0, 0, _KILL)
    body = [_load_argument(index_of_signal), (_EQUAL, 1, 0, signal.SIGKILL), _ALLOWED, _load_argument(0)]
    for target in (0, 1):
        body += [(_EQUAL, 0, 1, target), killed]
    return [*body, _ALLOWED]


def _special(power: Power, leashed: bool) -> dict[str, list[Instruction]]:
    """Calls that depend on their arguments, or need another errno."""
    oneself = _one_of(0, (0,))
    special = {
        "clone": _clone(power),
        # Its flags lie in memory, which a filter cannot read; the C library falls back to clone.
        "clone3": [_UNKNOWN],
        "io_uring_setup": [_UNKNOWN],
        # Memory that no limit counts.
        "memfd_create": [_UNKNOWN],
        "fcntl": [_load_argument(1), (_EQUAL, 0, 1, _F_SETPIPE_SZ), _DENIED, _ALLOWED],
        "socketpair": _one_of(0, (_AF_UNIX,)),
        "ioctl": _one_of(1, _IOCTLS, _refuse(errno.ENOTTY)),
        "prctl": _one_of(0, _PRCTLS),
        "prlimit64": oneself,
        "sched_setaffinity": oneself,
        "setpriority": [_load_argument(0), (_EQUAL, 1, 0, 0), _DENIED, *_one_of(1, (0,))],
    }
    if leashed:
        special["kill"] = special["tgkill"] = _one_of(0, (_PID_MARK,))
    elif power == "alone":
        special["kill"], special["tgkill"] = _suicide(1), _suicide(2)
    return special


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _search(ranges: list[tuple[int, int]]) -> list[Instruction]:
    """A binary search for the loaded number."""
    if len(ranges) == 1:
        low, high = ranges[0]
        return [(_AT_LEAST, 0, 2, low), (_GREATER, 1, 0, high), _ALLOWED, _DENIED]
    middle = len(ranges) // 2
    left, right = _search(ranges[:middle]), _search(ranges[middle:])
    assert len(left) <= 255, "a jump reaches 255 instructions"
    return [(_AT_LEAST, len(left), 0, ranges[middle][0]), *left, *right]


def build(power: Power, *, leashed: bool) -> bytes:
    """The filter program. Pass it through :func:`for_process` before it is installed."""
    table = _NUMBERS[ARCHITECTURE]
    special = _special(power, leashed)
    left_out = _LEFT_OUT[power] | special.keys()
    if leashed:
        left_out |= _FILE_ATTRIBUTES | _LEAVES_GROUP
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_EQUAL, 1, 0, _AUDIT_ARCH[ARCHITECTURE]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL),
    ]
    for name, body in special.items():
        if name in table:
            program += [(_EQUAL, 0, len(body), table[name]), *body]
    program += [(_AT_LEAST, 0, 1, _FIRST_UNKNOWN), _UNKNOWN]
    program += _search(_ranges(number for name, number in table.items() if name not in left_out))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def for_process(program: bytes, pid: int) -> bytes:
    """The filter as it is to be installed by process ``pid``."""
    return program.replace(struct.pack("=I", _PID_MARK), struct.pack("=I", pid))
