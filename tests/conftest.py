"""Shared fixtures: a tiny model folder, the tiny environment, real data where it is present."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from retool_env.config import EnvConfig

# How long an example takes says nothing about it: machines are shared.
settings.register_profile("retool", deadline=None)
settings.load_profile("retool")

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


@pytest.hookimpl(tryfirst=True)  # before the plugin that reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, tests of a file run in one of them, and so do all that need the checkpoint."""
    for item in items:
        group = "cold-start" if "cold_start" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


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
def cold_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's cold start on half of its traces: a checkpoint that calls Python, and not reliably."""
    from algos.config import SftConfig
    from algos.sft import sft
    from retool_env.compose import compose

    out = tmp_path_factory.mktemp("cold-start") / "run"
    overrides = [
        "experiment=tiny_sft",
        "threads=1",
        f"out={out}",
        "traces.num=24000",
        "eval.problems.size=100",
        "eval.greedy=false",
    ]
    return sft(compose("sft", SftConfig, overrides))


@pytest.fixture(autouse=True)
def _torch_threads() -> Iterator[None]:
    """A run sets torch's process-wide switches; a test must not hand them on."""
    import sys

    yield
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.use_deterministic_algorithms(False)
