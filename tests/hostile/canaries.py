"""What a sandboxed program must not find, read, touch or reach, set up on the host, and whether it did.

Secrets in files, environment, memory, arguments and an inheritable descriptor; listeners on TCP, UDP and unix sockets;
files that everyone may write; a process that counts the signals it gets. Nothing here trusts the program: a secret is
found in what it printed, a connection in the listener's queue, a signal in the canary's own report.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.hostile.prelude import Facts

__all__ = ["Canaries"]

_VARIABLE: Final = "RETOOL_CANARY_SECRET"
_CANARY: Final = """
import os, signal, sys
kept = sys.stdin.readline()
every = set(range(1, 65)) - {9, 14, 19, 32, 33}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready", flush=True)
while True:
    got = signal.sigwaitinfo(every)
    os.write(1, f"signal {got.si_signo} by user {got.si_uid}\\n".encode())
"""


def _token(label: str) -> str:
    return f"CANARY-{label}-{secrets.token_hex(12)}"


def _host_lines() -> dict[str, str]:
    """What identifies this host: the last user in the password file, the machine, the boot."""
    found = {}
    for path in ("/etc/passwd", "/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        with contextlib.suppress(OSError):
            lines = Path(path).read_text().split("\n")
            found[path] = next((line for line in reversed(lines) if len(line) > 10), "")
    return {path: line for path, line in found.items() if line}


class Canaries:
    """Use as a context. ``harm`` tells what happened since it was last asked, and puts things right again."""

    def __init__(self) -> None:
        self.tokens = {
            label: _token(label)
            for label in ("file-600", "file-644", "environment", "memory", "argument", "descriptor")
        }
        self._host_lines = _host_lines()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _set_up(self, stack: contextlib.ExitStack) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="canary-"))
        stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        (self.folder / "open-777").mkdir()
        os.environ[_VARIABLE] = self.tokens["environment"]
        stack.callback(os.environ.pop, _VARIABLE, None)
        self._plant_files(stack)
        self._listen(stack)
        self._start_process()
        stack.callback(self._stop_process)
        self._before = self._snapshot()

    def _plant_files(self, stack: contextlib.ExitStack) -> None:
        for name, mode, text in (
            ("secret-600", 0o600, self.tokens["file-600"]),
            ("secret-644", 0o644, self.tokens["file-644"]),
            ("secret-open", 0o600, self.tokens["descriptor"]),
            ("writable-666", 0o666, "as it was"),
            ("open-777/victim", 0o666, "as it was"),
        ):
            path = self.folder / name
            path.write_text(text)
            path.chmod(mode)
        (self.folder / "open-777").chmod(0o777)
        fd = os.open(self.folder / "secret-open", os.O_RDWR)
        stack.callback(os.close, fd)
        os.set_inheritable(fd, True)

    def _listen(self, stack: contextlib.ExitStack) -> None:
        self._abstract = f"canary-{secrets.token_hex(6)}"
        path = self.folder / "socket"
        kinds = (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self._abstract}"),
            ("path", socket.AF_UNIX, socket.SOCK_STREAM, str(path)),
        )
        self._sockets = {}
        for name, family, kind, address in kinds:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen(64)
            self._sockets[name] = listener
        path.chmod(0o777)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._door: int = free.getsockname()[1]

    def _start_process(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CANARY, self.tokens["argument"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{self.tokens['memory']}\n".encode())
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"ready\n"
        os.set_blocking(self._process.stdout.fileno(), False)
        self._standing = self._read_standing()

    def _stop_process(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        """The canary process."""
        return self._process.pid

    def facts(self, mark: str) -> Facts:
        """What a program named ``mark`` is told."""
        return Facts(
            mark=mark,
            family=mark.rpartition("-")[0],
            runner=os.getpid(),
            canary=self.pid,
            folder=str(self.folder),
            tcp=self._sockets["tcp"].getsockname()[1],
            udp=self._sockets["udp"].getsockname()[1],
            abstract=self._abstract,
            path=str(self.folder / "socket"),
            door=self._door,
        )

    def knock(self) -> bool:
        """Whether someone lets us in at the free port that programs were told of."""
        with socket.socket() as visitor:
            return visitor.connect_ex(("127.0.0.1", self._door)) == 0

    def leaked_into(self, text: str) -> list[str]:
        """Which secrets are in what a program handed out."""
        found = [f"printed the secret of {label}" for label, token in self.tokens.items() if token in text]
        return found + [f"printed {path} of the host" for path, line in self._host_lines.items() if line in text]

    def harm(self) -> list[str]:
        """What was done to the canaries."""
        return [*self._connections(), *self._changes(), *self._signals()]

    def _connections(self) -> list[str]:
        found = []
        for name, listener in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if name == "udp":
                        listener.recv(4096)
                    else:
                        listener.accept()[0].close()
                    found.append(f"reached the {name} canary")
        return found[:5]

    def _snapshot(self) -> dict[str, tuple[object, ...]]:
        entries: dict[str, tuple[object, ...]] = {}
        for path in (self.folder, *self.folder.rglob("*")):
            about = path.lstat()
            text = path.read_bytes() if path.is_file() else b""
            written = about.st_mtime_ns if path.is_file() else 0
            entries[str(path.relative_to(self.folder))] = (about.st_mode, about.st_uid, about.st_ino, written, text)
        return entries

    def _changes(self) -> list[str]:
        now = self._snapshot()
        found = [name for name in now.keys() | self._before.keys() if now.get(name) != self._before.get(name)]
        if found:
            for name in now.keys() - self._before.keys():
                path = self.folder / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            with contextlib.ExitStack() as spare:
                self._plant_files(spare)
            self._before = self._snapshot()
        return [f"changed the canary file {name!r}" for name in sorted(found)]

    def _read_standing(self) -> tuple[object, ...]:
        """Priority, processors, policy, file limit and score of the canary process."""
        limits = Path(f"/proc/{self.pid}/limits").read_text()
        score = Path(f"/proc/{self.pid}/oom_score_adj").read_text()
        nice, where = os.getpriority(os.PRIO_PROCESS, self.pid), os.sched_getaffinity(self.pid)
        return nice, where, os.sched_getscheduler(self.pid), limits, score

    def _signals(self) -> list[str]:
        if self._process.poll() is not None:
            self._process.communicate()
            self._start_process()
            return ["killed the canary process"]
        assert self._process.stdout is not None
        found = [
            "the canary process got a " + line.decode() for line in (self._process.stdout.read() or b"").splitlines()
        ]
        standing = self._read_standing()
        if standing != self._standing:
            self._stop_process()
            self._start_process()
            found.append("changed the canary's priority, processors or limits")
        return found[:5]
