"""A real SGLang server on this machine's processor, for tests marked ``sglang``.

``RETOOL_SGLANG_PYTHON`` names the interpreter of the environment that ``make test-sglang`` makes; without it the tests
are skipped. The server starts through ``tests/sglang_cpu``, which fills in for the compiled kernels that a CPU lacks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
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
