"""One zygote process as its owner sees it: started clean, handed orders, ended with everything below it.

The interpreter starts with an environment of our own making, no inherited descriptor, its own process group and
never by forking the caller, which may be a trainer with threads and a GPU. It gets a pidfd of the caller, so that it
notices the caller's death at once. :class:`Keeper` replaces a dead zygote, with a delay that grows while they die
young and stays below two seconds.

Left out: the exchange with a running program (``exchange``) and admission (``local``).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from retool_env.errors import SandboxError
from retool_env.sandbox.images import Image
from retool_env.sandbox.scratch import remove_tree
from retool_env.sandbox.wire import PACKET, Order, Ready

__all__ = ["MARK", "Keeper", "ZygoteGoneError", "ZygoteProcess"]

MARK: Final = "RETOOL_SANDBOX"
"""Environment variable that names the zygote's directory: what is left of a dead zygote's family is found by it."""

_ZYGOTE = Path(__file__).with_name("zygote.py")
_START_SECONDS = 60.0
_SEND_SECONDS = 10.0
_STOP_SECONDS = 5.0
_YOUNG_SECONDS = 5.0
_LONGEST_DELAY = 2.0

_logger = logging.getLogger(__name__)


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
    """A started zygote. Raises :class:`SandboxError` when it does not come up."""

    def __init__(self, *, image: Image, python: str) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="retool-sandbox-"))
        # Programs run under another user id and must get through to their own directory below, but not list this one.
        self._base.chmod(0o711)
        self._names = itertools.count()
        self.born = time.monotonic()
        self.last_words = ""
        self._requests, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with far:
                self._process = self._launch(far, image, python)
        except OSError as error:
            self._requests.close()
            remove_tree(self._base)
            raise SandboxError(f"the sandbox interpreter {python!r} does not start: {error}") from error
        self._await_ready()

    def _launch(self, far: socket.socket, image: Image, python: str) -> subprocess.Popen[bytes]:
        parent = os.pidfd_open(os.getpid())
        try:
            return subprocess.Popen(
                [python, "-s", "-P", "-B", str(_ZYGOTE), str(far.fileno()), str(parent), image, str(self._base)],
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

    def _await_ready(self) -> None:
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
        if ready["privilege"] == "same" and os.geteuid() == 0:
            _logger.warning("sandboxed programs run as root: this machine does not let them change their user")

    def new_scratch(self) -> Path:
        """An empty directory for one program; whoever asks for it removes it."""
        path = self._base / f"run-{next(self._names)}"
        path.mkdir(0o700)
        return path

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


class Keeper:
    """Keeps one zygote alive for many threads."""

    def __init__(self, *, image: Image, python: str) -> None:
        self._image: Image = image
        self._python = python
        self._lock = threading.Lock()
        self._zygote: ZygoteProcess | None = None
        self._early_ends = 0
        self._closed = False

    def get(self) -> ZygoteProcess:
        """The living zygote, started now if need be. Raises :class:`SandboxError`."""
        with self._lock:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._zygote is None:
                self._zygote = self._start()
            return self._zygote

    def _start(self) -> ZygoteProcess:
        if self._early_ends:
            time.sleep(min(0.05 * 2**self._early_ends, _LONGEST_DELAY))
        try:
            return ZygoteProcess(image=self._image, python=self._python)
        except SandboxError:
            self._early_ends += 1
            raise

    def retire(self, zygote: ZygoteProcess) -> None:
        """``zygote`` is dead or stuck: end it for good, so that the next :meth:`get` starts another one."""
        with self._lock:
            if self._zygote is not zygote:
                return
            self._zygote = None
            lived = time.monotonic() - zygote.born
            self._early_ends = self._early_ends + 1 if lived < _YOUNG_SECONDS else 0
            zygote.stop()
            _logger.warning("a zygote was lost after %.1f s: %s", lived, zygote.last_words)

    def close(self) -> None:
        """End the zygote and start no other one."""
        with self._lock:
            self._closed = True
            if self._zygote is not None:
                self._zygote.stop()
                self._zygote = None
