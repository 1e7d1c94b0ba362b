"""The judge: runs one hostile program in a sandbox, with a witness beside it and one after it, and looks at the host.

A program is contained when its status is one that is right for it, it came back in time, no process of it is alive,
no file, mount or queue of it exists, no canary was harmed and no secret was printed, and both witnesses gave the
right answer. What the program says counts only against it. Reasons are sentences; none means contained.

One judge at a time in a process, because it adopts the orphans of everyone in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as HangError
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from retool_env.sandbox import RunResult
from retool_env.sandbox.box.scratch import remove_tree
from tests.hostile import host, witness
from tests.hostile.backends import Backend
from tests.hostile.canaries import Canaries
from tests.hostile.model import Hostile
from tests.hostile.prelude import PREFIX, complete

__all__ = ["Judge", "Verdict"]

_HANG_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 3.0
_REST_SECONDS: Final = 0.5
_BESIDE_SECONDS: Final = 0.12
_HEAD_START: Final = 0.03
_WARM_RSS_MB: Final = 400


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one program: ``reasons`` why it is not contained, and how it ended."""

    name: str
    category: str
    status: str
    seconds: float
    reasons: tuple[str, ...]

    @property
    def contained(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class _Scene:
    """What is there when nothing runs."""

    processes: dict[int, str]
    files: frozenset[str]
    mounts: frozenset[str]
    litter: host.Litter


class Judge:
    """Owns the sandbox that ``opener`` opens, its temporary directory and the canaries. Use as a context."""

    def __init__(self, opener: Callable[[], Backend]) -> None:
        self._opener = opener
        self._canaries = Canaries()
        self._family = f"{PREFIX}{secrets.token_hex(3)}"
        self._count = 0
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
        host.adopt_orphans(True)
        stack.callback(host.adopt_orphans, False)
        stack.enter_context(self._canaries)
        self._use_folder(stack)
        self._pool = stack.enter_context(ThreadPoolExecutor(4))
        self._children_before = host.descendants(os.getpid()).keys()
        self._backend = self._opener()
        stack.callback(self._backend.close)
        self._warm_up()
        self._scene = self._look()

    def _use_folder(self, stack: contextlib.ExitStack) -> None:
        """A temporary directory of our own, in which nothing but the sandbox makes files."""
        self._folder = Path(tempfile.mkdtemp(prefix="judge-"))
        self._folder.chmod(0o755)
        stack.callback(remove_tree, self._folder)
        stack.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        tempfile.tempdir = str(self._folder)

    def _warm_up(self) -> None:
        """Every kind of helper that the sandbox starts on demand is started now; who uses numpy may get another one."""
        for code in ("print(1)", "print(1)  # numpy", "raise SystemExit(1)"):
            result = self._backend.run(code, limits=witness.LIMITS)
            assert result.status in ("ok", "error"), f"the sandbox does not work: {result}"
            self.tier = result.tier
        self._await_rest()

    def _await_rest(self) -> None:
        """Until no helper has come or gone for a while: a sandbox makes some of them when it has nothing else to do."""
        since, seen = time.monotonic(), host.descendants(os.getpid()).keys()
        while time.monotonic() < since + _REST_SECONDS:
            time.sleep(0.02)
            if (now := host.descendants(os.getpid()).keys()) != seen:
                since, seen = time.monotonic(), now

    def _look(self) -> _Scene:
        return _Scene(
            processes=host.descendants(os.getpid()),
            files=frozenset(str(path) for path in self._folder.rglob("*")),
            mounts=host.mounts(),
            litter=host.litter(self._family),
        )

    def try_program(self, program: Hostile) -> Verdict:
        """Run it and judge it. Cleans up after what was not contained."""
        self._count += 1
        mark = f"{self._family}-{self._count:04d}"
        start = time.monotonic()
        beside = self._start_witness("neighbour")
        time.sleep(_HEAD_START)
        running = self._pool.submit(self._run, program, mark)
        opened = program.knock and self._knock(running)
        try:
            result = running.result(4 * program.limits.wall_seconds + _HANG_SECONDS)
        except HangError:
            self._renew()
            return self._verdict(program, "hangs", start, ["did not come back in time"])
        after = self._start_witness("next program", seconds=0.0)
        reasons = [*judge_result(program, result), *beside(), *after(), *self._judge_secrets(result)]
        reasons += [*self._judge_host(mark), *self._canaries.harm()]
        reasons += ["opened a port of the host"] if opened else []
        return self._verdict(program, result.status, start, reasons)

    def _verdict(self, program: Hostile, status: str, start: float, reasons: list[str]) -> Verdict:
        seconds = time.monotonic() - start
        return Verdict(
            name=program.name, category=program.category, status=status, seconds=seconds, reasons=tuple(reasons)
        )

    def _run(self, program: Hostile, mark: str) -> RunResult:
        code = complete(program, self._canaries.facts(mark))
        return self._backend.run(
            code, mode=program.mode, limits=program.limits, stdin=program.stdin, fetch=program.fetch
        )

    def _knock(self, running: Future[RunResult]) -> bool:
        """Try to come in until it has ended."""
        while not running.done():
            if self._canaries.knock():
                return True
            time.sleep(0.02)
        return False

    def _start_witness(self, who: str, seconds: float = _BESIDE_SECONDS) -> Callable[[], list[str]]:
        nonce = secrets.token_hex(8)
        self._nonces = [nonce]
        future: Future[RunResult] = self._pool.submit(
            self._backend.run, witness.CODE, limits=witness.LIMITS, stdin=f"{nonce} {seconds} {self._family}"
        )

        def complaints() -> list[str]:
            try:
                return witness.complaint(who, future.result(_HANG_SECONDS * 5), nonce)
            except HangError:
                return [f"the {who} did not come back"]

        return complaints

    def _judge_secrets(self, result: RunResult) -> list[str]:
        everything = "\n".join([result.stdout, result.stderr, *(v.decode("latin-1") for v in result.files.values())])
        found = self._canaries.leaked_into(everything)
        return found + [f"printed its neighbour's secret {nonce}" for nonce in self._nonces if nonce in everything]

    def _judge_host(self, mark: str) -> list[str]:
        """Look until everything is as it was, or for some seconds: processes take a moment to die."""
        end = time.monotonic() + _SETTLE_SECONDS
        while True:
            reasons, strangers, left = self._compare(mark)
            if not reasons or time.monotonic() > end:
                break
            time.sleep(0.02)
        if reasons:
            host.kill(strangers)
            host.clean(left)
        self._scene = self._look() if reasons else self._scene
        return reasons

    def _compare(self, mark: str) -> tuple[list[str], dict[int, str], host.Litter]:
        now = self._look()
        strangers = host.survivors(mark)
        if len(now.processes) > len(self._scene.processes):
            known = self._scene.processes
            strangers |= {pid: name for pid, name in now.processes.items() if pid not in known}
        left = now.litter - self._scene.litter
        reasons = [f"left the process {name!r} behind" for name in sorted(set(strangers.values()))]
        reasons += [f"left {name} on the host" for name in sorted(left)[:3]]
        files = len(now.files) - len(self._scene.files)
        if files > 0:
            reasons.append(
                f"left {files} files in the sandbox's directory: {sorted(now.files - self._scene.files)[:3]}"
            )
        if now.mounts != self._scene.mounts:
            reasons.append(f"changed mounts: {sorted(now.mounts ^ self._scene.mounts)[:3]}")
        return reasons, strangers, left

    def _renew(self) -> None:
        """The sandbox is stuck: another one takes its place."""
        self._backend.close()
        self._backend = self._opener()
        self._stack.callback(self._backend.close)
        self._warm_up()
        self._scene = self._look()

    def finish(self) -> list[str]:
        """Close the sandbox and tell what is left of it: processes and files of its own."""
        self._backend.close()
        end = time.monotonic() + _SETTLE_SECONDS
        while True:
            alive = host.descendants(os.getpid())
            alive = {p: name for p, name in alive.items() if p not in self._children_before and p != self._canaries.pid}
            files = [str(path) for path in self._folder.rglob("*")]
            if not (alive or files) or time.monotonic() > end:
                break
            time.sleep(0.02)
        reasons = [f"closed, but the process {pid} ({name}) lives" for pid, name in alive.items()]
        return reasons + [f"closed, but {path} exists" for path in files[:3]]


def judge_result(program: Hostile, result: RunResult) -> list[str]:
    """What the result alone says against it: a wrong status, a confession, more output or time than was allowed."""
    limits, found = program.limits, []
    if result.status not in program.expect:
        expected = ", ".join(sorted(program.expect))
        found.append(
            f"ended {result.status}, not {expected} (exit {result.exit_code}, stderr {result.stderr[-400:]!r})"
        )
    if program.exit_code is not None and result.exit_code != program.exit_code:
        found.append(f"exit code {result.exit_code}, not {program.exit_code}")
    if program.shows not in result.stdout:
        found.append(f"did not get to print {program.shows!r}: {result.stdout[-200:]!r} {result.stderr[-400:]!r}")
    found += [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("BREACH")][:5]
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        # A bad byte becomes a character of three, and the cut is marked.
        if len(text.encode("utf-8", "replace")) > 3 * limits.output_bytes + 300:
            found.append(f"{len(text)} characters of {name} were kept")
    if result.cpu_seconds > limits.cpu_seconds + 1 and not limits.subprocesses:
        found.append(f"used {result.cpu_seconds:.1f} s of processor time")
    if result.max_rss_mb > limits.memory_mb + limits.disk_mb + _WARM_RSS_MB:
        found.append(f"held {result.max_rss_mb:.0f} MiB")
    found += [f"fetched {len(data)} bytes of {name}" for name, data in result.files.items() if len(data) > 64 << 20]
    return found
