"""What a zygote does to its own process before the first fork, so that its children find it done.

Left out: the walls (``ground``) and where its memory lies (``memory``).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from . import guest, root
from .program import PROC_FD

__all__ = ["behave", "hide_traces", "reserve_descriptors", "set_stage"]

_DESCRIPTORS: Final = 16384
_OOM_SCORE: Final = b"500"


def reserve_descriptors() -> None:
    """Keep the numbers that children put their own descriptors on free of anything that matters."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= PROC_FD:
        os.set_inheritable(fd, False)
    os.close(fd)


def behave() -> None:
    """Signals as they are at birth; few descriptors; the first to go when the machine runs out of memory."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(_OOM_SCORE)


def set_stage(boxed: bool) -> None:
    """What every program would do to the interpreter, done once: its streams, and the environment if all have one."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)
    guest.open_streams()
    if boxed:
        guest.set_environment(root.HOME)


def hide_traces() -> None:
    """Let programs find nothing on ``sys.path`` but the interpreter's own, and none of our modules by name."""
    roots = tuple(f"{prefix}/" for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, "/usr"))
    sys.path[:] = [path for path in sys.path if path.startswith(roots)]
    package = __name__.partition(".")[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
