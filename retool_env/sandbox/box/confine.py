"""What a freshly forked child does to itself before it runs a program: the box, wall by wall.

The sequence matters. Mounts need power, so they come first; then the identity is given up; then Landlock, which
forbids mounting; then descriptors are closed, because limiting their number first would fail; then limits; the filter
of system calls comes last, as it would refuse most of the above. Any failure raises ``OSError`` and no program runs.

Left out: how the host's namespaces are prepared once per zygote (``ground``) and what the program sees of Python
(``guest``).
"""

from __future__ import annotations

import math
import os
import resource
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from . import root, seccomp, syscalls
from .landlock import Landlock
from .seccomp import Power
from .wire import Tier

__all__ = ["Confinement", "Identity", "limit"]

Identity = Literal["uid", "reader", "userns", "same"]
"""Who a program is. ``uid``: an unused user id. ``reader``: that, and still allowed to read every file, because the
interpreter lies in a directory that only root may enter. ``userns``: the only user of its own user namespace.
``same``: the caller's user."""

NEWNS: Final = 0x20000
NEWUSER: Final = 0x10000000
_NOSUID_NODEV: Final = 6
_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS = 1, 8, 38
_MAX_DESCRIPTORS: Final = 128
_MAX_TASKS: Final = 128
_INODES: Final = 4096
_SIGNALS_PENDING: Final = 256


def write_identity_map(proc: int, inside: int, outside: int) -> None:
    """In a new user namespace: be ``inside`` here, which is ``outside`` in the one above."""
    line = f"{inside} {outside} 1"
    for name, text in (("setgroups", "deny"), ("uid_map", line), ("gid_map", line)):
        fd = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: write {name}") from error
        finally:
            os.close(fd)


def _cap(what: int, value: int) -> None:
    """Set soft and hard limit alike, so that the program cannot raise it, and never above what we were given."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def limit(*, cpu_seconds: float, memory_bytes: int, disk_mb: int) -> None:
    """The kernel's limits. The processor limit here is whole seconds and a backstop: the zygote decides finely."""
    if math.isfinite(cpu_seconds):
        _cap(resource.RLIMIT_CPU, math.ceil(cpu_seconds) + 1)
    _cap(resource.RLIMIT_FSIZE, disk_mb << 20)
    _cap(resource.RLIMIT_AS, memory_bytes)


def _fixed_limits() -> None:
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, _SIGNALS_PENDING),
    ):
        _cap(what, value)


def _tasks_on_this_host(proc: int) -> int:
    with open(os.open("loadavg", os.O_RDONLY, dir_fd=proc)) as file:
        return int(file.read().split()[3].partition("/")[2])


def close_inherited(first: int) -> None:
    """Close every descriptor from ``first`` on; the zygote keeps its limit low, so this is cheap everywhere."""
    os.closerange(first, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """Everything about the box that is the same for every program of a zygote.

    Attributes:
        tier: which walls there are.
        identity: who programs are.
        first_uid: programs get the user ids from here on, by slot.
        proc: the host's ``/proc``, as a descriptor; the only way to it.
        links: what a program needs in its ``/tmp`` (see ``root.build``).
        own_tasks: whether the kernel counts a program's tasks apart from everybody else's.
    """

    tier: Tier
    identity: Identity
    first_uid: int
    proc: int
    links: root.Links
    own_tasks: bool
    landlock: Landlock | None
    filters: dict[Power, bytes]

    @classmethod
    def make(
        cls, *, tier: Tier, identity: Identity, first_uid: int, proc: int, links: root.Links, own_tasks: bool
    ) -> Confinement:
        """Compile the rules. To be called where the programs' file system is in place."""
        boxed = tier.startswith("T1")
        readable: Iterable[str] = ("/",) if boxed else (*root.readable_paths(), "/etc/ld.so.cache", "/etc/localtime")
        leashed = not boxed
        return cls(
            tier=tier,
            identity=identity,
            first_uid=first_uid,
            proc=proc,
            links=links,
            own_tasks=own_tasks,
            landlock=Landlock(readable, root.DEVICES) if tier in ("T1", "T2") else None,
            filters={power: seccomp.build(power, leashed=leashed) for power in seccomp.POWERS} if tier != "T3" else {},
        )

    @property
    def boxed(self) -> bool:
        """Whether programs have namespaces of their own."""
        return self.tier.startswith("T1")

    def enter(self, *, slot: int, scratch: str, disk_mb: int) -> str:
        """Go into the box and give up all power, up to limits and filter; the directory that is the program's own."""
        # Not setsid: it would make a scheduling group of its own, with the share of everything else together.
        os.setpgid(0, 0)
        tasks = 0 if self.own_tasks else _tasks_on_this_host(self.proc)
        if self.boxed:
            self._mount(slot, disk_mb)
            scratch = root.HOME
        elif self.identity in ("uid", "reader"):
            os.chown(scratch, self.first_uid + slot, self.first_uid + slot)
        self._become(slot)
        os.umask(0o022)
        syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if not self.boxed:
            # A namespace dies with its first process; here each program must be tied to the zygote by itself.
            syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._furnish(scratch)
        if self.landlock is not None:
            self.landlock.restrict(scratch)
        _cap(resource.RLIMIT_NPROC, tasks + _MAX_TASKS)
        return scratch

    def _mount(self, slot: int, disk_mb: int) -> None:
        user = 1000 if self.identity == "userns" else self.first_uid + slot
        if self.identity == "userns":
            inside = os.geteuid()
            syscalls.unshare(NEWNS | NEWUSER)
            write_identity_map(self.proc, 1000, inside)
        else:
            syscalls.unshare(NEWNS)
        options = f"size={disk_mb}m,nr_inodes={_INODES},mode=700,uid={user},gid={user}"
        syscalls.mount("box", root.HOME, "tmpfs", _NOSUID_NODEV, options)

    def _become(self, slot: int) -> None:
        if self.identity in ("userns", "same"):
            syscalls.drop_capabilities()
        else:
            user = self.first_uid + slot
            syscalls.prctl(_PR_SET_KEEPCAPS, int(self.identity == "reader"))
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            if self.identity == "reader":
                syscalls.keep_only_reading()

    def _furnish(self, scratch: str) -> None:
        for name in ("work", "tmp", "shm"):
            os.mkdir(f"{scratch}/{name}")
        for name, target in self.links:
            os.symlink(target, f"{scratch}/tmp/{name}")
        os.chdir(f"{scratch}/work")

    def seal(self, *, subprocesses: bool, keep: int) -> None:
        """Close every descriptor from ``keep`` on, set the fixed limits, install the filter."""
        self._seal("processes" if subprocesses else "alone", keep)

    def seal_cell(self, *, subprocesses: bool, alone: bool, keep: int) -> None:
        """The same for a session's cell, which must be able to fork for the next one unless it is ``alone``."""
        self._seal("processes" if subprocesses else "alone" if alone else "forks", keep)

    def _seal(self, power: Power, keep: int) -> None:
        close_inherited(keep)
        _fixed_limits()
        if self.filters:
            syscalls.seccomp_install(seccomp.for_process(self.filters[power], os.getpid()))
