"""Shared fixtures: a tiny model folder, the tiny environment, real data where it is present."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from retool_env.config import EnvConfig

# How long an example takes says nothing about it: machines are shared.
settings.register_profile("retool", deadline=None)
settings.load_profile("retool")

# As the console command has it, before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell starts what it puts into the background deaf to Ctrl-C, and what tests start would inherit that.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

TINY_ENV = {
    "instructions": False,
    "traceback": "short",
    "max_context_tokens": 256,
    "max_turn_tokens": 64,
    "max_tool_rounds": 3,
    "max_tool_tokens": 48,
    "cpu_seconds": 1.0,
    "wall_seconds": 60.0,
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, tests of a file run in one of them and share what it started; examples of the pages, which
    are processes of their own, run wherever there is time."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return nodeid if file == "tests/test_docs.py" else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def gsm8k_test() -> Path:
    path = DATA / "gsm8k_test.jsonl"
    if not path.is_file():
        pytest.skip(f"GSM8K test split is not at {path}")
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights, and its tokenizer."""
    from algos.config import TinyModelConfig
    from algos.tiny import make_tiny

    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, TinyModelConfig(hidden_size=64, intermediate_size=128, num_layers=2), seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_env(tiny_folder: Path) -> EnvConfig:
    return EnvConfig(**TINY_ENV, tokenizer=str(tiny_folder))


@pytest.fixture(scope="session")
def cold_start(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The demo's cold start on half of its traces: a checkpoint that calls Python, and not reliably. Several workers
    make it once."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    with (shared / "cold-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _cold_start(shared / "cold-start")


def _cold_start(out: Path) -> Path:
    from algos.config import SftConfig
    from algos.sft import sft
    from retool_env.compose import compose

    final = out / "checkpoints" / "final"
    if final.is_dir():
        return final
    overrides = [
        "experiment=tiny_sft",
        "threads=1",
        f"out={out}",
        "traces.num=24000",
        "eval.problems.size=100",
        "eval.greedy=false",
    ]
    return sft(compose("sft", SftConfig, overrides))


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of this process among several, as pytest-xdist calls it, or ``master``."""
    workerinput = getattr(request.config, "workerinput", None)
    return "master" if workerinput is None else str(workerinput["workerid"])


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    """A run sets torch's process-wide switches; a test must not hand them on."""
    import sys

    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
