"""One cell's process, of a sweep or of a suite: the plain command in a Python of its own.

A process of its own, because a cell that runs out of memory must not take the sweep with it, and because torch's
threads, switches and memory are the process's. The reverse holds as well: a cell does not outlive its sweep, or two
processes would write one run folder after the sweep is started again. Its standard input is a pipe that nobody writes
to; when the other end is gone, so is the cell. Settings with a key or password in them reach it through its
environment, because everybody on the machine can read a command line.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from retool_env.errors import InfrastructureError, UsageError
from retool_env.sweeps.cells import Attempt

__all__ = ["INTERRUPTED", "begin", "main", "run"]

INTERRUPTED: Final = 130
_SECRET: Final = re.compile(r"api_key|://.*@")
_VARIABLE: Final = "RETOOL_CELL_SECRETS"
_MOST_BYTES: Final = 4000  # of an error, so that writing it to a pipe cannot block


def begin() -> Attempt:
    """An attempt that begins now."""
    return Attempt(begun=datetime.now().isoformat(timespec="seconds"))


def run(attempt: Attempt, command: Sequence[str], *, log: Path | None = None, lock: int | None = None) -> Attempt:
    """Run ``retool COMMAND`` to its end; returns the attempt with what became of it.

    Ctrl-C ends the attempt with the code :data:`INTERRUPTED` and raises nothing.

    Args:
        command: name and overrides.
        log: file that gets what it prints; ``None`` for this process's terminal.
        lock: descriptor that it inherits, so that it holds the cell's lock until it is gone.
    """
    began, used = time.monotonic(), _child_seconds()
    said, says = os.pipe()
    os.set_blocking(said, False)  # a process that a killed cell has left behind may hold the other end
    out = log.open("ab") if log is not None else None
    secrets = [word for word in command if _SECRET.search(word)]
    shown = [word for word in command if word not in secrets]
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "retool_env.sweeps.process", str(says), *shown],
            env={**os.environ, _VARIABLE: json.dumps(secrets)},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            pass_fds=(says,) if lock is None else (says, lock),
        )
        os.close(says)
        code = _wait(process)
        error = _read(said)
    finally:
        os.close(said)
        if out is not None:
            out.close()
    spent = {"seconds": time.monotonic() - began, "cpu_seconds": _child_seconds() - used}
    return attempt.model_copy(update={**spent, "code": code, "error": error})


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Its exit code. Ctrl-C reaches the cell too, which then ends by itself."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(timeout=30)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
        return INTERRUPTED
    finally:
        if process.stdin is not None:
            process.stdin.close()


def _read(said: int) -> str:
    """What is in the pipe now."""
    try:
        return os.read(said, _MOST_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str]) -> int:
    """The cell's side: ``DESCRIPTOR COMMAND OVERRIDE...``; returns the exit code and writes what went wrong."""
    says, command, *overrides = arguments
    overrides += json.loads(os.environ.pop(_VARIABLE, "[]"))
    _end_with_the_sweep()
    code, error = _run(command, overrides)
    os.write(int(says), error.encode()[:_MOST_BYTES])
    return code


def _run(command: str, overrides: list[str]) -> tuple[int, str]:
    from retool_env.cli import run_command

    try:
        run_command(command, overrides)
    except UsageError as error:
        return 2, str(error)
    except InfrastructureError as error:
        return 3, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except Exception as error:  # noqa: BLE001 - whatever it is, the sweep names the cell and goes on
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {' '.join(str(error).split())}"
    return 0, ""


def _end_with_the_sweep() -> None:
    """Take standard input away from the run, and die when its other end is gone."""
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watch-sweep").start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
