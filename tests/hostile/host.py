"""The host as it can be seen from outside: processes, files, mounts, queues. And how to clean up after a failure.

Survivors are found in two ways. Every hostile process names itself and its children after its mark, or carries the
mark in its arguments; and the judge is a child subreaper, so whatever a sandbox loses becomes its own descendant.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import site
import stat
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.hostile.prelude import SYSV_PREFIX

__all__ = ["Litter", "adopt_orphans", "clean", "descendants", "kill", "litter", "mounts", "survivors"]

Litter = frozenset[str]

_PR_SET_CHILD_SUBREAPER: Final = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans(yes: bool) -> None:
    """Become (or stop being) the one that orphaned descendants are given to."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)


def _status(pid: str) -> tuple[str, int, str] | None:
    """Name, parent and state; None when it is gone."""
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        state, parent = line.rpartition(")")[2].split()[:2]
        return line[line.index("(") + 1 : line.rindex(")")], int(parent), state
    return None


def _processes() -> dict[int, tuple[str, int, str]]:
    pids = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit()]
    return {int(pid): status for pid in pids if (status := _status(pid))}


def descendants(root: int) -> dict[int, str]:
    """Process id and name of everything alive below ``root``."""
    table = _processes()
    below = {root}
    while new := {pid for pid, (_, parent, _) in table.items() if parent in below} - below:
        below |= new
    return {pid: table[pid][0] for pid in below - {root} if table[pid][2] not in "ZX"}


def survivors(mark: str) -> dict[int, str]:
    """Processes anywhere that bear ``mark``, by name or by argument."""
    found = {}
    for pid, (name, _, state) in _processes().items():
        if state in "ZX" or pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if name == mark or mark in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found[pid] = name
    return found


def kill(pids: dict[int, str]) -> None:
    """End survivors, and bury those that are ours."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def mounts() -> frozenset[str]:
    """The mounts that this process sees, without their ids."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return frozenset(re.sub(r"^\d+ \d+ ", "", line) for line in lines)


def _watched() -> list[str]:
    import retool_env

    fixed = (
        "/ /etc /etc/cron.d /usr /usr/bin /usr/local/bin /opt /var /var/lib /run /run/lock /root /home /srv /mnt /dev"
    )
    shared = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", tempfile.gettempdir(), str(Path.home()), str(Path.cwd())]
    groups = ["/sys/fs/cgroup", *map(str, Path("/sys/fs/cgroup").glob("*/"))]
    code = [sys.prefix, sys.base_prefix, str(Path(os.__file__).parent), str(Path(retool_env.__file__).parent)]
    imported = [path for path in sys.path if Path(path).is_absolute()]
    caches = [f"{path}/__pycache__" for path in imported]
    return [
        *fixed.split(),
        *shared,
        *groups,
        *code,
        *caches,
        site.getusersitepackages(),
        *imported,
    ]


def _queues() -> set[str]:
    """System V objects with one of our keys, as ``kind:id``."""
    found = set()
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
                key, number = map(int, line.split()[:2])
                if key & 0xFFFF0000 == SYSV_PREFIX:
                    found.add(f"{kind}:{number}")
    return found


def litter(family: str) -> Litter:
    """Every file of ``family`` in the places worth watching, and every queue with one of our keys."""
    found = _queues()
    for folder in dict.fromkeys(_watched()):
        with contextlib.suppress(OSError):
            found |= {entry.path for entry in os.scandir(folder) if entry.name.startswith(family)}
    return frozenset(found)


def clean(found: Litter) -> None:
    """Remove what a failure left behind."""
    controls = {"shm": _libc.shmctl, "sem": _libc.semctl, "msg": _libc.msgctl}
    for name in found:
        kind, _, number = name.partition(":")
        if kind in controls:
            controls[kind](int(number), 0, 0) if kind != "sem" else controls[kind](int(number), 0, 0, 0)
            continue
        with contextlib.suppress(OSError):
            path = Path(name)
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
            elif name.startswith("/sys/fs/cgroup"):
                path.rmdir()
            else:
                shutil.rmtree(path, ignore_errors=True)
