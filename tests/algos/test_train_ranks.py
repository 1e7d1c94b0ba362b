"""``retool train`` and ``retool sft`` under ``torchrun``: two ranks learn what one process learns."""

from __future__ import annotations

import os
import socket
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


SCRIPT = """
import hashlib, os, sys
from transformers import PreTrainedTokenizerFast, TrainingArguments
from agents.loading import load_model
from algos.retool_trainer import ReToolTrainer

folder, out = sys.argv[1:]
model = load_model(folder)
sizes = {"per_device_train_batch_size": 8, "max_steps": 1, "save_strategy": "no", "learning_rate": 1e-3}
trainer = ReToolTrainer(
    model=model,
    processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    args=TrainingArguments(output_dir=out, report_to=[], use_cpu=True, **sizes),
    train_dataset=[{"prompt": f"Compute {k} * 23 modulo 7.", "answer": str(k * 23 % 7)} for k in range(9)],
    max_turns=3,
    max_completion_length=64,
    num_generations=4,
    overrides=["env.instructions=false", "env.max_context_tokens=256", "threads=1"],
)
trainer.train()
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
open(f"{out}.{os.environ['RANK']}", "w").write(digest)
"""


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
def test_two_machines_train_as_one(cold_start: Path, tmp_path: Path) -> None:
    """Two ``torchrun`` with one rank each that meet at an address, as on two machines; both see the run folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{probe.getsockname()[1]}"
    overrides = ["train", "experiment=tiny_grpo", *SMALL, f"model.path={cold_start}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint={meet}", "--rdzv-id=two", "-m", "retool_env.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*launch, *overrides, f"out={tmp_path / 'two'}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    run(*overrides, f"out={tmp_path / 'one'}", ranks=1)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two["actor/grad_norm"] == pytest.approx(one["actor/grad_norm"], rel=1e-3)
        assert two["num_tokens/trained"] == one["num_tokens/trained"]


@pytest.mark.slow
def test_the_trainer_of_python_users_runs_on_ranks(cold_start: Path, tmp_path: Path) -> None:
    """One rank writes what all read; all have the trained weights afterwards."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*launch, str(cold_start), str(tmp_path / "run")], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows(tmp_path / "run")) == 1
    digests = {(tmp_path / f"run.{rank}").read_text() for rank in range(2)}
    assert len(digests) == 1


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
