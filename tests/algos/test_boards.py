"""Where the numbers of a run go besides its folder."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from agents.run_folder import RunFolder, read_metrics
from algos.boards import check_boards
from algos.config import LoggerConfig, TrainConfig
from algos.logger import RunLogger
from retool_env.cli import main
from retool_env.errors import MissingExtraError
from tests.sweep_tools import wait_for

ROWS = [(0, {"reward/mean": 0.25, "actor/entropy": math.nan}), (1, {"reward/mean": 0.5}), (1, {"eval/accuracy": 0.75})]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "sweep" / "algo-grpo", TrainConfig())


def log(run: RunFolder, config: LoggerConfig, *, first: int = 0) -> None:
    with RunLogger(run, total=2, label="train", first=first, config=config) as logger:
        for step, metrics in ROWS:
            logger.log("train", step, metrics)
        logger.say("a line")
        logger.say("an alarm", always=True)


def test_the_record_is_written_whatever_the_boards(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    log(run, LoggerConfig(backends=(), console=False))
    assert [row["reward/mean"] for row in read_metrics(run.path / "metrics.jsonl")[:2]] == [0.25, 0.5]
    assert not (run.path / "tensorboard").exists()
    said = capsys.readouterr().out
    assert "an alarm" in said and "a line" not in said


def test_tensorboard_gets_the_finite_numbers(run: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(run, LoggerConfig())
    found = EventAccumulator(str(run.path / "tensorboard")).Reload()
    assert set(found.Tags()["scalars"]) == {"train/reward/mean", "train/eval/accuracy"}
    assert [(one.step, one.value) for one in found.Scalars("train/reward/mean")] == [(0, 0.25), (1, 0.5)]


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_board_that_is_not_installed_is_told_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one, *more: None if one == name else found(one, *more))
    for command in (["train", "experiment=tiny_grpo", "model.path=nowhere"], ["sft", "experiment=tiny_sft"]):
        assert main([*command, f"logger={name}", f"out={tmp_path / 'run'}"]) == 2
        error = f"retool: logger.backends={name} needs the [{name}] extra: pip install 'retool-env[{name}]'\n"
        assert capsys.readouterr().err == error
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb itself leaves a folder called wandb."""
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError):
        check_boards(LoggerConfig(backends=("wandb",)))


def test_loggers_may_differ_when_a_run_is_resumed(run: RunFolder) -> None:
    RunFolder(run.path, TrainConfig(logger=LoggerConfig(backends=())), resume=True)


def test_wandb_gets_every_row_and_knows_a_resumed_run_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(run, LoggerConfig(backends=("wandb",)))
    log(run, LoggerConfig(backends=("wandb",)), first=1)
    files = sorted(run.path.rglob("run-*.wandb"))
    assert len(files) == 2
    assert {path.stem.removeprefix("run-") for path in files} == {(run.path / "wandb.id").read_text()}
    for path in files:
        # Protocol buffers, whose texts stand in them as they are; another process writes them.
        wait_for(lambda path=path: b"train/eval/accuracy" in path.read_bytes(), seconds=60)
        kept = path.read_bytes()
        assert all(text in kept for text in (b"train/reward/mean", b"0.25", b"retool", b"sweep/algo-grpo"))
        assert b"actor/entropy" not in kept


def test_swanlab_gets_every_row(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("swanlab")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    log(run, LoggerConfig(backends=("swanlab",)))
    kept = b"".join(path.read_bytes() for path in (run.path / "swanlab").rglob("*") if path.is_file())
    assert b"train/reward/mean" in kept and b"train/eval/accuracy" in kept
