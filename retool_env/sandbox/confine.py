"""What a freshly forked child does to itself before it runs a program: own group, own identity, limits.

Runs inside the zygote's process tree, standard library only, and is loaded there by path. It is the place where
namespaces, Landlock and seccomp will go. **This is not yet a security boundary**: the program still sees the file
system and the network of its user. What it does give is that programs cannot starve the machine by accident
(processor, memory, file size, descriptors, processes) and, where the zygote is root, that they run under a user id
of their own, which can neither write root's files nor signal the trainer, the zygote or each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Literal

__all__ = ["Privilege", "become_reaper", "close_inherited", "confine", "limit", "probe_privilege"]

Privilege = Literal["own", "reader", "same"]
"""``same``: the zygote's user. ``own``: a throwaway user id. ``reader``: that, and still allowed to read every file,
because the interpreter lies in a directory that only root may enter (pyenv in /root)."""

_THROWAWAY_UIDS = 1 << 30
_DAC_READ_SEARCH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 4, 8
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_MAX_FILE_BYTES = 64 << 20
_MAX_DESCRIPTORS = 128
_MAX_TASKS = 128

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_CAPABILITY_VERSION_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)
_ONLY_READING = (ctypes.c_uint32 * 6)(*[1 << _DAC_READ_SEARCH] * 3, 0, 0, 0)


def _prctl(option: int, value: int, third: int = 0) -> None:
    if _libc.prctl(option, value, third, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def become_reaper() -> None:
    """Adopt the orphans among one's descendants, so that a daemon does not slip away to process 1."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _keep_reading() -> None:
    """Hold on to CAP_DAC_READ_SEARCH alone, also across an exec of a sub-process."""
    if _libc.capset(_CAPABILITY_VERSION_3, _ONLY_READING):
        raise OSError(ctypes.get_errno(), "capset")
    _prctl(_PR_CAP_AMBIENT, 2, _DAC_READ_SEARCH)


def _drop(privilege: Privilege) -> None:
    """Give up root for a user id that no living process shares: it is made from our own process id."""
    uid = _THROWAWAY_UIDS + os.getpid()
    _prctl(_PR_SET_KEEPCAPS, int(privilege == "reader"))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if privilege == "reader":
        _keep_reading()


def _works(privilege: Privilege, base: str) -> bool:
    """Try it in a forked child: can a program with this privilege reach its modules and its scratch directory?"""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            _drop(privilege)
            Path(base).stat()
            for folder in filter(Path.is_dir, map(Path, sys.path)):
                list(folder.iterdir())
            Path(os.__file__).stat()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def probe_privilege(base: str) -> Privilege:
    """The lowest privilege that programs can live with on this machine."""
    if os.geteuid() != 0:
        return "same"
    candidates: tuple[Privilege, ...] = ("own", "reader")
    return next((privilege for privilege in candidates if _works(privilege, base)), "same")


def _cap(what: int, value: int) -> None:
    """Set soft and hard limit alike, so that the program cannot raise it, and never above what we were given."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _task_limit(privilege: Privilege) -> int:
    """A throwaway user has only the program's own tasks; any other one counts against everything it already runs."""
    if privilege != "same":
        return _MAX_TASKS
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2]) + _MAX_TASKS


def close_inherited(first: int) -> None:
    """Close every descriptor from ``first`` on; the zygote keeps its limit low, so this is cheap everywhere."""
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def confine(*, scratch: str, privilege: Privilege, zygote_pid: int) -> None:
    """Own process group, own user where possible, tied to the zygote's life. Raises ``OSError``."""
    os.setpgid(0, 0)
    if privilege != "same":
        uid = _THROWAWAY_UIDS + os.getpid()
        os.chown(scratch, uid, uid)
    os.chdir(scratch)
    limit_tasks = _task_limit(privilege)
    if privilege != "same":
        _drop(privilege)
        # A change of user makes /proc/self the property of root, which breaks /dev/stdin and its kin.
        _prctl(_PR_SET_DUMPABLE, 1)
    _cap(resource.RLIMIT_NPROC, limit_tasks)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    become_reaper()
    # After the change of user, which would clear it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != zygote_pid:
        os._exit(1)


def limit(*, cpu_seconds: float, memory_bytes: int) -> None:
    """The kernel's limits. The processor limit here is whole seconds and a backstop: the zygote decides finely."""
    seconds = math.ceil(cpu_seconds) + 1
    _cap(resource.RLIMIT_CORE, 0)
    _cap(resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS)
    _cap(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _cap(resource.RLIMIT_CPU, seconds)
    _cap(resource.RLIMIT_AS, memory_bytes)
