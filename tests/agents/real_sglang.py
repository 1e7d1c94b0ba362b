"""A real SGLang server on this machine's processor, for tests marked ``sglang``.

``RETOOL_SGLANG_PYTHON`` names the interpreter of the environment that ``make test-sglang`` makes; without it the tests
are skipped. The server starts through ``tests/sglang_cpu``, which fills in for the compiled kernels that a CPU lacks.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.serve import ServerProcess, ServerSpec
from agents.serve.command import ServeOptions, server_specs
from agents.serve.interpreter import VARIABLE, Installation, find_installation
from tests.agents.serve_tools import free_ports

SHIM = Path(__file__).resolve().parents[1] / "sglang_cpu"
LAUNCHER = "sglang_on_cpu"
# One thread, and no polling while idle: the cores of a test machine are few. Without the overlap
# scheduler a finished reply is finished for the server too; with it, an update at once after a reply may find it busy.
FLAGS = (
    *("--device", "cpu", "--mem-fraction-static", "0.3", "--max-total-tokens", "65536"),
    *("--max-running-requests", "64", "--disable-overlap-schedule", "--sleep-on-idle"),
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(SHIM),
    "SGLANG_USE_CPU_ENGINE": "1",
}

_shared = contextlib.ExitStack()
atexit.register(_shared.close)


def installation() -> Installation:
    """SGLang for the CPU, or a skipped test."""
    if not os.environ.get(VARIABLE):
        pytest.skip(f"no real SGLang: {VARIABLE} is not set; `make test-sglang` installs one and sets it")
    return find_installation()


def spec(model: Path, logs: Path) -> ServerSpec:
    """As ``retool serve`` would start it, on a free port."""
    options = ServeOptions(
        model=str(model),
        port=free_ports(),
        dtype="float32",
        launcher=LAUNCHER,
        logs=logs,
        rest=FLAGS,
    )
    return dataclasses.replace(server_specs(options, installation())[0], env=ENVIRONMENT)


@contextlib.contextmanager
def real_sglang(model: Path, logs: Path) -> Iterator[ServerProcess]:
    """A server with the checkpoint ``model``, ready. Its log goes to ``logs``; shown if it does not start."""
    began = time.monotonic()
    with ServerProcess(spec(model, logs)) as server:
        print(f"SGLang {installation().version} on {server.url} was ready after {time.monotonic() - began:.0f} s")
        yield server


@functools.cache
def shared_sglang(model: Path) -> ServerProcess:
    """One server for all test modules that ask for ``model``, because a start takes half a minute and more.

    It lives as long as this process. Whoever gets it must load the weights that it needs.
    """
    logs = _shared.enter_context(tempfile.TemporaryDirectory(prefix="retool-sglang-"))
    return _shared.enter_context(real_sglang(model, Path(logs)))


def processes_of(port: int) -> list[int]:
    """The server at ``port`` and its children, the one that holds the model first."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    (main,) = [pid for pid in parents if _is_server(pid, port)]
    family = {main}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family, key=_memory, reverse=True)


def _is_server(pid: int, port: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return (
        LAUNCHER.encode() in command
        and str(port).encode() in command
        and not any(b"guard.py" in part for part in command)
    )


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
