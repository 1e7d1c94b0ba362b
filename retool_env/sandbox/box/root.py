"""The file system that programs see: the interpreter and the system's libraries, read-only, and nothing else.

Built once by the zygote in its own mount namespace: a small memory file system with bind mounts in it, five devices,
a handful of made-up files in ``/etc``, no ``/proc`` and no ``/sys``. Each program then mounts a file system of its own
over :data:`HOME`. Left out: anything the caller's user keeps elsewhere, which is the point.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

from . import syscalls

__all__ = ["DEVICES", "HOME", "Links", "build", "readable_paths"]

HOME: Final = "/box"
"""Where each program mounts its private file system."""

DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
Links = tuple[tuple[str, str], ...]

_IMAGE: Final = "/.image"
_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt/intel")
_COPIED: Final = ("ld.so.cache", "localtime", "nsswitch.conf", "mime.types")
_MADE_UP: Final = {
    "passwd": b"sandbox:x:1000:1000::/box/work:/bin/sh\n",
    "group": b"sandbox:x:1000:\n",
    "hosts": b"127.0.0.1 localhost\n",
}
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH: Final = 2
_FLAGS_OF_STATVFS: Final = (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV, os.ST_NOEXEC, os.ST_NOATIME, os.ST_NODIRATIME)


def readable_paths() -> list[str]:
    """What the interpreter and its libraries need, as it is on this host; parents before children."""
    found: list[str] = []
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for path in (*_SYSTEM, sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix, *libraries):
        covered = any(path == other or path.startswith(other + "/") for other in found)
        if os.path.isabs(path) and path != "/" and os.path.lexists(path) and not covered:
            found.append(os.path.normpath(path))
    return found


def _old_way_read_only(target: str) -> None:
    """Before Linux 5.12: remount with the flags that the mount has already, which must not be taken away."""
    flags = os.statvfs(target).f_flag
    kept = sum(flag for flag in _FLAGS_OF_STATVFS if flags & flag)
    syscalls.mount("none", target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV | kept)


def _seal(target: str) -> None:
    try:
        syscalls.mount_read_only(target)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _old_way_read_only(target)


def _bind(source: int, target: str) -> None:
    """Mount what the descriptor ``source`` refers to: its path may lie under the new root by now."""
    if os.path.isdir(f"/proc/self/fd/{source}"):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(f"/proc/self/fd/{source}", target, None, _BIND | _REC)


def _place(root: str, path: str) -> tuple[str, Links]:
    """Where to mount ``path``. Below ``/tmp``, which belongs to the program, only a link leads there."""
    parts = path.split("/")
    if parts[1] != "tmp":
        return root + path, ()
    return f"{root}{_IMAGE}{path}", ((parts[2], f"{_IMAGE}/tmp/{parts[2]}"),)


def _fill(root: str, sources: list[tuple[str, int, str]], devices: list[tuple[str, int]]) -> Links:
    links: set[tuple[str, str]] = set()
    for path, source, link in sources:
        target, wanted = _place(root, path)
        links.update(wanted)
        if link:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(link, target)
        else:
            _bind(source, target)
            _seal(target)
    for path, source in devices:
        _bind(source, root + path)
    return tuple(sorted(links))


def _write_etc(root: str) -> None:
    texts = dict(_MADE_UP)
    for name in _COPIED:
        try:
            with open(f"/etc/{name}", "rb") as file:
                texts[name] = file.read()
        except OSError:
            continue
    os.makedirs(f"{root}/etc")
    for name, text in texts.items():
        with open(f"{root}/etc/{name}", "wb") as file:
            file.write(text)


def build() -> Links:
    """Enter the new root. To be called in a mount namespace of one's own, with the power to mount.

    Returns the links that each program needs in its ``/tmp`` to reach an interpreter that lives below ``/tmp``.
    Raises ``OSError`` naming the mount that the host refuses.
    """
    base = "/tmp"
    syscalls.mount("none", "/", None, _REC | _PRIVATE)
    sources = [
        (path, -1, os.readlink(path)) if os.path.islink(path) else (path, os.open(path, os.O_PATH | os.O_CLOEXEC), "")
        for path in readable_paths()
    ]
    devices = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in DEVICES]
    os.umask(0o022)
    syscalls.mount("root", base, "tmpfs", _NOSUID | _NODEV, "size=8m,mode=755")
    _write_etc(base)
    links = _fill(base, sources, devices)
    os.mkdir(base + HOME)
    for name in ("tmp", "dev/shm"):
        os.symlink(f"{HOME}/{os.path.basename(name)}", f"{base}/{name}")
    for fd in (*(source for _, source, _ in sources if source >= 0), *(source for _, source in devices)):
        os.close(fd)
    os.chdir(base)
    syscalls.pivot_root()
    syscalls.umount(".", _DETACH)
    os.chdir("/")
    syscalls.mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID)
    return links
