"""Dry runs: 7B and 32B on a CPU without weights, with real data; and what they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from algos.config import SftConfig, TrainConfig
from algos.plan.shapes import KNOWN
from algos.sft import sft
from algos.train import train
from retool_env.compose import compose
from retool_env.errors import UsageError
from tests.conftest import DATA
from tests.retool_env.chat_folders import build_folder

MEASURED = """\
import resource, sys
from retool_env.cli import main
code = main(sys.argv[1:])
print("peak memory, KiB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def folder_of(name: str, folder: Path) -> Path:
    """What a model folder has beside its weights; the tokenizer is a small one of the same family."""
    build_folder(folder, "qwen2_5")
    KNOWN[name].save_pretrained(folder)
    return folder


def real(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not at {path}")
    return path


@pytest.mark.parametrize(
    ("recipe", "name", "gpus"),
    [
        ("retool_qwen2.5_7b_grpo", "Qwen2.5-7B-Instruct", 16),
        ("retool_qwen2.5_32b_grpo", "Qwen2.5-32B-Instruct", 16),
        ("retool_qwen2.5_32b_ppo", "Qwen2.5-32B-Instruct", 16),
    ],
)
def test_large_models_need_no_weights(recipe: str, name: str, gpus: int, tmp_path: Path) -> None:
    """The command itself, on real problems, as the first of 16 ranks, in less than 4 GiB."""
    folder = folder_of(name, tmp_path / "model")
    arguments = [
        "train",
        f"experiment={recipe}",
        "dry_run=true",
        f"model.path={folder}",
        f"out={tmp_path / 'run'}",
        f"cluster.gpus={gpus}",
        f"problems.path={real('aime_2024_dapo.parquet')}",
        f"eval.problems.path={real('aime_2025_retool.jsonl')}",
    ]
    done = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"problems: \d+ of aime_2024_dapo\S*; prompts of the first \d+ have \d+ to [\d,]+ tokens", done.stdout
    )
    layers = KNOWN[name].num_hidden_layers
    assert f"in {layers + 1} units on {gpus} ranks" in done.stdout
    assert ("critic: " in done.stdout) is recipe.endswith("ppo")
    assert "fits: " in done.stdout
    found = re.search(r"activations peak at ([\d.]+) GiB, the plan has ([\d.]+)", done.stdout)
    assert found is not None
    assert float(found[1]) == pytest.approx(float(found[2]), rel=0.1)
    peak = re.search(r"peak memory, KiB: (\d+)", done.stdout)
    assert peak is not None and int(peak[1]) < 4 * 2**20
    assert not (tmp_path / "run").exists()


def tiny(folder: Path, out: Path, *overrides: str) -> TrainConfig:
    settings = ["experiment=tiny_grpo", "threads=1", f"model.path={folder}", f"out={out}", "dry_run=true", *overrides]
    return compose("train", TrainConfig, settings)


def test_nothing_is_left_behind(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = ("cluster.gpus=4", "model.parallel.sequence=2", "model.compute_dtype=bfloat16", "algo.kl.coef=0.1")
    train(tiny(tiny_folder, tmp_path / "run", *shards))
    out = capsys.readouterr().out
    assert "problems: endless of arithmetic" in out and "evaluation: 500 of arithmetic" in out
    assert "in 3 units on 4 ranks" in out
    assert not dist.is_initialized()
    assert list(tmp_path.iterdir()) == []


def test_a_cold_start_reads_its_traces(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        "experiment=tiny_sft",
        "threads=1",
        f"model.path={tiny_folder}",
        f"out={tmp_path / 'run'}",
        "traces.num=50",
    ]
    sft(compose("sft", SftConfig, [*settings, "dry_run=true"]))
    out = capsys.readouterr().out
    lengths = re.search(r"traces: 50 of (\d+) to (\d+) tokens, ([\d,]+) of them trained", out)
    assert lengths is not None
    assert 0 < int(lengths[1]) < int(lengths[2]) <= 256
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("critic", ["shared", "own"])
def test_critics_and_adapters_are_sharded_too(
    critic: str, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["algo=ppo", f"algo.critic.shared={str(critic == 'shared').lower()}", "cluster.gpus=3"]
    train(tiny(tiny_folder, tmp_path / "run", *overrides))
    assert ("critic: " in capsys.readouterr().out) is (critic == "own")
    pytest.importorskip("peft")
    train(tiny(tiny_folder, tmp_path / "run", *overrides, "model.lora={r: 4}"))
    assert "on 3 ranks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.max_context_tokens=8", "env.max_turn_tokens=8"], "its prompt has"),
        (["cluster.gpus=3", "model.parallel.sequence=2"], "parallel.sequence=2 does not divide 3 ranks"),
        (["cluster.gpus=8", "model.parallel.sequence=8"], "does not divide the model's 4 attention heads"),
        (["algo.layout=packed"], "layout=packed with 'sdpa' attention builds a mask"),
        (["env.max_context_tokens=100000"], "env.max_context_tokens=100000: the model has"),
        (["problems=gsm8k", "problems.path=nothing.jsonl"], "problems.path='nothing.jsonl': no such file"),
    ],
)
def test_what_cannot_work_is_told(overrides: list[str], message: str, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        train(tiny(tiny_folder, tmp_path / "run", *overrides))
    assert message in str(error.value)
    assert not dist.is_initialized() and not (tmp_path / "run").exists()


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    KNOWN["Qwen2.5-0.5B-Instruct"].save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=r"no tokenizer\.json there"):
        train(tiny(tmp_path / "model", tmp_path / "run"))


def test_it_is_not_for_torchrun(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        train(tiny(tiny_folder, tmp_path / "run"))


def test_a_cold_start_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.path is not set"):
        sft(compose("sft", SftConfig, ["experiment=tiny_sft", "threads=1", f"out={tmp_path / 'run'}", "dry_run=true"]))
