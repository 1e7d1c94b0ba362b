"""``retool train`` and ``retool sft`` under ``torchrun``: two ranks learn what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agents.run_folder import read_metrics

SMALL = [
    "threads=1",
    "algo.prompts_per_step=3",
    "algo.group_size=4",
    "algo.steps=2",
    "algo.rescore=true",
    "eval.every=0",
    "eval.problems.size=10",
    "eval.greedy=false",
]


def run(command: str, *overrides: str, ranks: int) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    retool = [*(launch if ranks > 1 else [sys.executable, "-m"]), "retool_env.cli", command, *overrides]
    done = subprocess.run(
        retool, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "final" / "model.safetensors")


def rows(run: Path) -> list[dict]:
    return [row for row in read_metrics(run / "metrics.jsonl") if row["phase"] == "train"]


@pytest.mark.parametrize(
    "options",
    [
        [],
        pytest.param(["model.lora={r: 4}"], marks=pytest.mark.slow),
        pytest.param(["model.parallel.sequence=2", "algo.advantage=gae"], marks=pytest.mark.slow),
    ],
    ids=["full", "lora", "ulysses-ppo"],
)
def test_two_ranks_train_as_one(cold_start: Path, tmp_path: Path, options: list[str]) -> None:
    alone = [option for option in options if "parallel" not in option]
    for name, ranks, own in (("one", 1, alone), ("two", 2, options)):
        run(
            "train",
            "experiment=tiny_grpo",
            *SMALL,
            f"model.path={cold_start}",
            f"out={tmp_path / name}",
            *own,
            ranks=ranks,
        )
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    for name in (
        "actor/loss",
        "actor/grad_norm",
        "actor/entropy",
        "num_tokens/trained",
        "accuracy/mean",
        "reward/mean",
    ):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-4, abs=1e-6), name
    assert max(row["logprob_gap/max"] for row in two) <= 1e-4
    mine, theirs, start = (
        weights(tmp_path / "one"),
        weights(tmp_path / "two"),
        load_file(cold_start / "model.safetensors"),
    )
    assert mine.keys() == theirs.keys() == start.keys()
    moved = max(float((mine[name] - start[name]).abs().max()) for name in mine)
    assert moved > 1e-4, "nothing was learnt: the test shows nothing"
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 0.2 * moved


@pytest.mark.slow
def test_two_ranks_start_cold_as_one(tmp_path: Path) -> None:
    for name, ranks in (("one", 1), ("two", 2)):
        overrides = ["experiment=tiny_sft", "threads=1", "traces.num=600", "eval.problems.size=5", "eval.greedy=false"]
        run("sft", *overrides, f"out={tmp_path / name}", ranks=ranks)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-3)


def test_what_cannot_be_laid_out_is_refused_before_anything_is_written(cold_start: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    refused = [*launch, "retool_env.cli", "train", "experiment=tiny_grpo", f"model.path={cold_start}"]
    done = subprocess.run(
        [*refused, f"out={tmp_path / 'run'}", "model.parallel.sequence=3"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "parallel.sequence=3 does not divide 2 ranks" in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()
