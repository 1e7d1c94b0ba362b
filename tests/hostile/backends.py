"""What the corpus can be run against: the local sandbox at a tier, and a bare process as the control that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, Protocol

from retool_env.sandbox import Limits, LocalSandbox, Mode, RunResult, RunStatus
from retool_env.sandbox.box.scratch import remove_tree

__all__ = ["Backend", "BackendName", "BareProcess", "open_backend"]

BackendName = Literal["fork", "subprocess"]

# The shell in between is the parent that a program may kill: the judge itself must survive its control.
_SHELL: Final = '"$0" "$1"; exit $?'


_PATIENCE: Final = 3.0


class Backend(Protocol):
    """The part of a sandbox that the judge needs."""

    def run(
        self,
        code: str,
        *,
        mode: Mode = "script",
        limits: Limits | None = None,
        stdin: str = "",
        fetch: Sequence[str] = (),
    ) -> RunResult: ...

    def close(self) -> None: ...


class BareProcess:
    """A child process with a time limit, as one would write it without a sandbox. Contains next to nothing."""

    def run(
        self,
        code: str,
        *,
        mode: Mode = "script",
        limits: Limits | None = None,
        stdin: str = "",
        fetch: Sequence[str] = (),
    ) -> RunResult:
        folder = Path(tempfile.mkdtemp(prefix="bare-"))
        try:
            return self._run_in(folder, code, limits or Limits(), stdin)
        finally:
            remove_tree(folder)

    def _run_in(self, folder: Path, code: str, limits: Limits, stdin: str) -> RunResult:
        program = folder / "program.py"
        program.write_text(code, errors="replace")
        given, out, err = (folder / name for name in ("stdin", "stdout", "stderr"))
        given.write_text(stdin)
        with given.open("rb") as source, out.open("wb") as output, err.open("wb") as errors:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, sys.executable, str(program)],
                stdin=source,
                stdout=output,
                stderr=errors,
                cwd=folder,
                start_new_session=True,
                close_fds=False,
            )
            try:
                status = RunStatus.ERROR if process.wait(min(limits.wall_seconds, _PATIENCE)) else RunStatus.OK
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = RunStatus.TIMEOUT
        return RunResult(
            status=status,
            stdout=out.read_text(errors="replace") if out.exists() else "",
            stderr=err.read_text(errors="replace") if err.exists() else "",
            exit_code=process.returncode,
            tier="none",
        )

    def close(self) -> None:
        """Nothing is kept."""


def open_backend(name: BackendName = "fork", tier: str | None = None) -> Backend:
    """Open one. Raises what the sandbox raises when this host cannot have the tier."""
    if name == "subprocess":
        return BareProcess()
    if tier is None:
        return LocalSandbox()
    return LocalSandbox(tier=tier, unsafe=tier == "T3")
