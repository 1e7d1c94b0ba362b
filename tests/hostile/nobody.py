"""Run a command as the user ``nobody`` when we are root, wherever the interpreter lives.

Often it lives below a home directory that only its owner may enter. A private mount namespace then gets an open, empty
directory in that place, with only what Python needs put back. The host keeps its view; nothing is left behind.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import retool_env
from retool_env.errors import UsageError

__all__ = ["run_as_nobody"]

_NOBODY: Final = 65534
_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    if _libc.mount(words[0], words[1], words[2], flags, words[3]):
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def _closed_top(path: Path) -> Path | None:
    """The first directory on the way to ``path`` that others may not enter."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _open_up(needed: Iterable[Path]) -> None:
    """In a mount namespace of our own, let others reach ``needed``."""
    if _libc.unshare(_NEWNS):
        raise OSError(ctypes.get_errno(), "a new mount namespace")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    hidden = {path: top for path in needed if (top := _closed_top(path))}
    handles = {path: os.open(path, os.O_PATH) for path in hidden}
    for top in dict.fromkeys(hidden.values()):
        _mount("none", str(top), "tmpfs", 0, "mode=755,size=1m")
    for path, handle in handles.items():
        if not path.exists():
            path.mkdir(parents=True)
            _mount(f"/proc/self/fd/{handle}", str(path), None, _MS_BIND | _MS_REC)
        os.close(handle)


def _become_nobody(needed: Iterable[Path]) -> None:
    _open_up(needed)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def run_as_nobody(arguments: Sequence[str], *, capture: bool = False) -> subprocess.CompletedProcess[str]:
    """This interpreter with ``arguments``, as ``nobody``, in the repository; ``capture``: both streams into ``stdout``.

    Raises:
        UsageError: we are not root, or this host refuses.
    """
    if os.geteuid() != 0:
        raise UsageError("only root can become nobody; run without --nobody to be the user you are")
    root = Path(retool_env.__file__).resolve().parents[1]
    # Shortest first: what lies inside another one needs no mount of its own.
    needed = sorted({Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), root}, key=lambda p: len(p.parts))
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=root,
            env={**environment, "HOME": "/nonexistent", "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=lambda: _become_nobody(needed),
            text=True,
            check=False,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.STDOUT if capture else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"this host does not let root open the way for nobody: {error}") from error
