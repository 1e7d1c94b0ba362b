"""One zygote process as its owner sees it: started clean, handed orders, ended with everything below it.

The interpreter starts with an environment of our own making, no inherited descriptor, its own process group and
never by forking the caller, which may be a trainer with threads and a GPU. It gets a pidfd of the caller, so that it
notices the caller's death at once.

Left out: the exchange with a running program (``exchange``), restarting (``keeper``) and admission (``local``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from retool_env.errors import SandboxError
from retool_env.sandbox.box.guest import MARK
from retool_env.sandbox.box.images import Image
from retool_env.sandbox.box.scratch import remove_tree
from retool_env.sandbox.box.wire import PACKET, Order, Ready, Set_up, Tier
from retool_env.sandbox.remedies import TierError

__all__ = ["MARK", "ZygoteGoneError", "ZygoteProcess"]

_PACKAGE: Final = Path(__file__).parent
_BOOT: Final = (
    "import sys, json; sys.path[0] = sys.argv[1]; from box import zygote; "
    "zygote.main(int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))"
)
_START_SECONDS = 60.0
_SEND_SECONDS = 10.0
_STOP_SECONDS = 5.0


class ZygoteGoneError(SandboxError):
    """The zygote ended before it took the order; no program was started."""


def _environment(base: Path) -> dict[str, str]:
    """Instead of ``-I``, which would also ignore PYTHONHASHSEED: nothing of the caller's environment is in here,
    but for the path that the interpreter itself may need to start."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")}
    loader = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
    return {
        **threads,
        **loader,
        MARK: str(base),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        # One malloc arena: each further one reserves 64 MiB of the address space that the memory limit counts.
        "MALLOC_ARENA_MAX": "1",
        "MPLBACKEND": "Agg",
    }


def _marked(mark: bytes) -> list[int]:
    """Living processes whose environment bears ``mark``. Forked ones bear it whatever they did to ``os.environ``."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _sweep(mark: bytes) -> None:
    """Kill what survived a zygote that could not clean up itself; a few passes, as the victims may fork."""
    for _ in range(20):
        pids = _marked(mark)
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


class ZygoteProcess:
    """A started zygote. Raises :class:`SandboxError` when it does not come up, :class:`TierError` when this host
    refuses what was asked for."""

    def __init__(self, *, image: Image, python: str, tiers: Sequence[Tier], spares: int) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="retool-sandbox-"))
        # Programs run under another user id and must get through to their own directory below, but not list this one.
        self._base.chmod(0o711)
        self._names = itertools.count()
        self.born = time.monotonic()
        self.last_words = ""
        set_up: Set_up = {
            "image": image,
            "tiers": list(tiers),
            "base": str(self._base),
            "spares": spares,
            "hint": os.getpid() ^ (id(self) >> 4),
        }
        self._requests, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with far:
                self._process = self._launch(far, python, set_up)
        except OSError as error:
            self._requests.close()
            remove_tree(self._base)
            raise SandboxError(f"the sandbox interpreter {python!r} does not start: {error}") from error
        self.ready = self._await_ready()

    @property
    def tier(self) -> str:
        return self.ready["tier"]

    def _launch(self, far: socket.socket, python: str, set_up: Set_up) -> subprocess.Popen[bytes]:
        parent = os.pidfd_open(os.getpid())
        arguments = [str(_PACKAGE), str(far.fileno()), str(parent), json.dumps(set_up)]
        try:
            return subprocess.Popen(
                [python, "-s", "-B", "-c", _BOOT, *arguments],
                pass_fds=(far.fileno(), parent),
                env=_environment(self._base),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        finally:
            os.close(parent)

    def _await_ready(self) -> Ready:
        self._requests.settimeout(_START_SECONDS)
        try:
            packet = self._requests.recv(PACKET)
        except OSError as error:
            packet = repr(error).encode()
        if not packet.startswith(b"{"):
            self.stop()
            raise SandboxError(f"the sandbox did not start: {packet.decode() or self.last_words}")
        self._requests.settimeout(_SEND_SECONDS)
        ready: Ready = json.loads(packet)
        if not ready["tier"]:
            self.stop()
            raise TierError(ready["refused"])
        if ready["tier"].startswith("T1"):
            # Programs have a file system of their own in memory; nothing is ever written here.
            remove_tree(self._base)
        return ready

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """An empty directory for one program, where it needs one on disk."""
        if self.tier.startswith("T1"):
            yield ""
            return
        path = self._base / f"run-{next(self._names)}"
        path.mkdir(0o700)
        try:
            yield str(path)
        finally:
            remove_tree(path)

    def submit(self, order: Order, descriptors: list[int]) -> None:
        """Hand over one program. Raises :class:`SandboxError`, :class:`ZygoteGoneError` if nobody can have taken it."""
        try:
            socket.send_fds(self._requests, [json.dumps(order).encode()], descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ZygoteGoneError("the zygote is gone") from error
        except TimeoutError as error:
            raise SandboxError("the zygote takes no orders") from error

    def stop(self) -> None:
        """End the zygote, its programs and whatever these started; remove its directory. To be called once."""
        # shutdown, not only close: a forked trainer process may hold a copy of this socket.
        with contextlib.suppress(OSError):
            self._requests.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._requests.close()
        _sweep(f"{MARK}={self._base}".encode())
        remove_tree(self._base)
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            lines = [line for line in stderr.read().decode("utf-8", "replace").splitlines() if line.strip()]
        self.last_words = lines[-1] if lines else f"exit status {self._process.returncode}"
