"""What a zygote does once to its host: find the strongest tier that works here, and prepare it.

A tier is tried by really doing it, to the last wall, in a forked child that then ends; only what has worked there is
used. Nothing falls back silently: the caller names the tiers that will do, and gets the reason for each that did not.

Left out: what is done for each program (``confine``).
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from . import confine, root, seccomp, syscalls
from .confine import Confinement, Identity
from .scratch import remove_tree
from .wire import Tier

__all__ = ["Ground", "choose"]

_NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x04000000, 0x08000000, 0x20000000, 0x40000000
_ALL_NEW: Final = confine.NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_PR_SET_PDEATHSIG: Final = 1
_SLOTS: Final = 1024
_DESCRIPTORS: Final = 1024
_HIGH_IDS: Final = 1 << 30
_NAMES_PER_USER: Final = (5, 14)
"""Since this Linux, RLIMIT_NPROC counts for each user namespace apart."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The prepared host: :meth:`confinement` gives the walls for programs.

    Attributes:
        pid_namespace: our own PID namespace, to return to after a child got a new one; -1 without namespaces.
    """

    tier: Tier
    identity: Identity
    first_uid: int
    proc: int
    pid_namespace: int

    def confinement(self) -> Confinement:
        """Build the programs' file system and compile the rules. Everything must be imported by now."""
        links = root.build() if self.tier.startswith("T1") else ()
        own = self.identity in ("uid", "reader") or (self.identity == "userns" and _kernel() >= _NAMES_PER_USER)
        return Confinement.make(
            tier=self.tier,
            identity=self.identity,
            first_uid=self.first_uid,
            proc=self.proc,
            links=links,
            own_tasks=own,
        )


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)))


def _first_uid(hint: int) -> int:
    """The first of some user ids that nobody has, different for different zygotes; 0 when this host gives us none."""
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first = _HIGH_IDS + (hint % 2**20) * _SLOTS
    if any(start <= first and first + _SLOTS <= start + count for start, _, count in ranges):
        return first
    start, _, count = max(ranges, key=lambda ids: ids[2])
    # A container's own range, as of a rootless one: its upper end, below the traditional nobody.
    return start + count - 2 * _SLOTS if count > 4 * _SLOTS else 0


def _reap_as_stub(pid: int) -> NoReturn:
    """Stay behind as the parent outside of the namespaces, only to tell how the zygote ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Above all the request socket, whose end of file tells the caller that the zygote is gone.
    os.closerange(3, _DESCRIPTORS)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _enter_namespaces(identity: Identity, proc: int) -> None:
    """Go on as the first process of new namespaces. In user namespaces, everything below belongs to us."""
    outside = os.geteuid()
    if identity == "userns":
        syscalls.unshare(_ALL_NEW | confine.NEWUSER)
        confine.write_identity_map(proc, 1000, outside)
    else:
        syscalls.unshare(_ALL_NEW)
    pid = os.fork()
    if pid:
        _reap_as_stub(pid)
    syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    socket.sethostname("sandbox")


def _enter(tier: Tier, identity: Identity, first_uid: int) -> Ground:
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = -1
    if tier != "T3" and not seccomp.supported():
        raise OSError(errno.ENOSYS, f"no system call table for {syscalls.ARCHITECTURE}")
    if tier in ("T1", "T2") and syscalls.landlock_version() < 1:
        raise OSError(errno.ENOSYS, "this kernel has no Landlock, or it is switched off (lsm= on its command line)")
    if tier.startswith("T1"):
        _enter_namespaces(identity, proc)
        namespace = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    return Ground(tier=tier, identity=identity, first_uid=first_uid, proc=proc, pid_namespace=namespace)


def _identities(tier: Tier, first_uid: int) -> tuple[Identity, ...]:
    switchable = os.geteuid() == 0 and first_uid > 0
    if tier.startswith("T1"):
        return ("uid", "userns") if switchable else ("userns",)
    return ("uid", "reader", "same") if switchable else ("same",)


def _try(tier: Tier, identity: Identity, first_uid: int, base: str) -> None:
    """Do everything that a program's child does, and look whether its interpreter can be read."""
    confinement = _enter(tier, identity, first_uid).confinement()
    if not confinement.boxed:
        os.mkdir(base, 0o700)
    confinement.enter(slot=0, scratch=base, disk_mb=1)
    with open(os.__file__, "rb"):
        pass
    confinement.seal(subprocesses=False, keep=3)


def _in_child(attempt: Callable[[], None]) -> str:
    """What went wrong with ``attempt`` in a forked child; empty if nothing did. It may fork and close descriptors."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 2)
        try:
            attempt()
            os.write(2, b"+")
        except BaseException as error:  # noqa: BLE001
            # The border of the probe: whatever happens is the answer.
            os.write(2, (str(error) or repr(error)).encode()[:500])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return "" if said == "+" else said or "the attempt was killed"


def choose(tiers: Iterable[Tier], *, base: str, hint: int) -> tuple[Ground | None, dict[str, str]]:
    """Prepare the first tier that works. Also the reasons why those before it did not."""
    first_uid = _first_uid(hint)
    probe = f"{base}/probe"
    refused: dict[str, str] = {}
    for tier in tiers:
        for identity in _identities(tier, first_uid):
            refusal = _in_child(functools.partial(_try, tier, identity, first_uid, probe))
            remove_tree(Path(probe))
            if not refusal:
                return _enter(tier, identity, first_uid), refused
            refused[tier] = refusal
    return None, refused
