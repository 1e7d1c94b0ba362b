"""What every hostile program starts with: its bounds, the host's addresses to attack, and how it confesses.

The process names itself after its ``mark``, which its children inherit, so that the judge finds survivors wherever
they hide; ``alarm`` ends what nothing else ends. System calls go by number where libc has no function for them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from tests.hostile.model import Hostile

__all__ = ["PREFIX", "SYSV_PREFIX", "Facts", "complete"]

PREFIX: Final = "hx-"
"""Every mark begins so."""
SYSV_PREFIX: Final = 0x68780000
"""High half of every System V key that a program uses."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a program is told about the host, so that a failure to attack is not a failure to find.

    Attributes:
        mark: name of this run's processes and of what it makes in places that others see.
        family: how every mark of this judge begins.
        runner: process id of the sandbox's caller.
        canary: process id of a process beside it that holds secrets and counts signals.
        folder: directory of canary files: ``secret-600``, ``secret-644``, ``writable-666``, ``open-777/``.
        tcp: port of a listener on 127.0.0.1.
        udp: the same for datagrams.
        abstract: name of an abstract unix socket, without the leading zero byte.
        path: path of a unix socket.
        door: a free port.
    """

    mark: str
    family: str
    runner: int
    canary: int
    folder: str
    tcp: int
    udp: int
    abstract: str
    path: str
    door: int


_PRELUDE = """
import ctypes, errno, os, platform, signal, sys, threading, time
from types import SimpleNamespace
host = SimpleNamespace(**FACTS)
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, host.mark.encode(), 0, 0, 0)
signal.alarm(20)
_write, _fork = os.write, getattr(os, "fork", None)
NR = {
    "x86_64": dict(add_key=248, keyctl=250, kexec_load=246, init_module=175, perf_event_open=298, kcmp=312,
                   bpf=321, userfaultfd=323, process_vm_readv=310, process_vm_writev=311, open_by_handle_at=304,
                   migrate_pages=256, quotactl=179, sched_setattr=314, ioprio_set=251, shmget=29, semget=64, msgget=68),
    "aarch64": dict(add_key=217, keyctl=219, kexec_load=104, init_module=105, perf_event_open=241, kcmp=272,
                    bpf=280, userfaultfd=282, process_vm_readv=270, process_vm_writev=271, open_by_handle_at=265,
                    migrate_pages=238, quotactl=60, sched_setattr=274, ioprio_set=30, shmget=194, semget=190,
                    msgget=186),
}.get(platform.machine(), {})
NR.update(pidfd_send_signal=424, io_uring_setup=425, open_tree=428, move_mount=429, fsopen=430, pidfd_open=434,
          clone3=435, pidfd_getfd=438, process_madvise=440, mount_setattr=442, memfd_secret=447)

def breach(what):
    _write(1, f"\\nBREACH {what}\\n".encode())

def spread(count=1):
    "Fork with a bounded life; None where that is refused."
    try:
        pid = _fork()
    except OSError as error:
        print("fork refused:", error.errno, flush=True)
        return None
    if pid == 0:
        signal.alarm(20)
    return pid

def refused(what, act, *args):
    "Try what must not work."
    try:
        act(*args)
    except (OSError, MemoryError, ImportError, ValueError, AttributeError) as error:
        return error
    breach(what)

def libcall(name, *args):
    "A libc function by name; raises like os does."
    ctypes.set_errno(0)
    value = getattr(libc, name)(*args)
    if value == -1:
        raise OSError(ctypes.get_errno(), name)
    return value

def syscall(name, *args):
    "A system call by number, each argument a machine word. Errors other than a refusal mean that the kernel served it."
    if name not in NR:
        raise OSError(errno.ENOSYS, name)
    ctypes.set_errno(0)
    value = libc.syscall(ctypes.c_long(NR[name]), *[a if isinstance(a, (bytes, ctypes.Array)) or hasattr(a, "_obj")
                         else ctypes.c_long(a) for a in args])
    if value == -1:
        raise OSError(ctypes.get_errno(), name)
    return value

def unserved(what, act, *args):
    "Like refused, but for calls with useless arguments: only a refusal will do, no complaint about the arguments."
    try:
        act(*args)
    except (OSError, AttributeError) as error:
        if getattr(error, "errno", errno.EPERM) in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            return
        breach(f"{what}: the kernel looked at it ({error})")
    else:
        breach(what)
"""


def complete(program: Hostile, facts: Facts) -> str:
    """The text that the sandbox gets."""
    if program.bare:
        return program.code
    return _PRELUDE.replace("FACTS", repr(asdict(facts))) + program.code
