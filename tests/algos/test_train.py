"""Training end to end: it learns, it repeats to the bit, it goes on where it was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agents.run_folder import is_time, read_metrics
from algos.config import TrainConfig
from algos.train import train
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.trajectory import Trajectory, read_trajectories


def config(out: Path, start: Path, *overrides: str) -> TrainConfig:
    return compose(
        "train", TrainConfig, ["experiment=tiny_grpo", "threads=1", f"out={out}", f"model.path={start}", *overrides]
    )


def small(out: Path, start: Path, *overrides: str) -> TrainConfig:
    sizes = ["algo.prompts_per_step=4", "algo.group_size=4", "algo.steps=4", "eval.every=2", "eval.problems.size=10"]
    return config(out, start, *sizes, *overrides)


def rows(run: Path) -> list[dict]:
    """Metrics without time fields."""
    return [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(run / "metrics.jsonl")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "final" / "model.safetensors")


def bits(trajectory: Trajectory) -> tuple:
    """What must not differ between two runs of one seed."""
    transcript, record = trajectory.transcript, trajectory.record
    arrays = (transcript.token_ids, transcript.action_mask, transcript.logprobs, transcript.policy_version)
    return (trajectory.ticket, record.outcome, record.reward_parts, *(array.tobytes() for array in arrays))


def assert_same_run(one: Path, two: Path) -> None:
    assert rows(one) == rows(two)
    for name in ("trajectories.jsonl", "eval/sampled.jsonl", "eval/greedy.jsonl"):
        assert [*map(bits, read_trajectories(one / name))] == [*map(bits, read_trajectories(two / name))], name
    stores = [sorted((run / "rollouts").glob("step-*")) for run in (one, two)]
    assert [path.name for path in stores[0]] == [path.name for path in stores[1]]
    for mine, theirs in zip(*stores, strict=True):
        assert [*map(bits, read_trajectories(mine))] == [*map(bits, read_trajectories(theirs))], mine.name
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_to_call_python(cold_start: Path, tmp_path: Path) -> None:
    """Twenty steps take sampled accuracy on held-out problems from a third to well over a half."""
    overrides = ["algo.steps=20", "eval.every=20", "eval.problems.size=200", "eval.greedy=false"]
    train(config(tmp_path / "run", cold_start, *overrides))
    metrics = rows(tmp_path / "run")
    before, after = (row["eval/accuracy"] for row in metrics if row["phase"] == "eval")
    tool_rate = [row["eval/tool_rate/mulmod"] for row in metrics if row["phase"] == "eval"]
    assert after >= 0.55
    assert after >= before + 0.15
    assert tool_rate[1] >= max(0.75, tool_rate[0])
    assert max(row["logprob_gap/max"] for row in metrics if row["phase"] == "train") <= 1e-4


def test_a_checkpoint_says_the_same_as_the_model_it_was_saved_from(cold_start: Path, tmp_path: Path) -> None:
    """Weights and tokenizer: the evaluation at the end of one run is the one at the start of the next."""
    sizes = [
        "algo.prompts_per_step=2",
        "algo.group_size=2",
        "algo.steps=1",
        "eval.problems.size=50",
        "eval.greedy=false",
    ]
    train(config(tmp_path / "one", cold_start, *sizes))
    train(config(tmp_path / "two", tmp_path / "one" / "checkpoints" / "final", *sizes))
    last = [row for row in rows(tmp_path / "one") if row["phase"] == "eval"][-1]
    first = next(row for row in rows(tmp_path / "two") if row["phase"] == "eval")
    assert {**last, "step": 0} == first


def test_the_same_seed_gives_the_same_bits(cold_start: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(small(tmp_path / name, cold_start))
    assert_same_run(tmp_path / "one", tmp_path / "two")
    train(small(tmp_path / "three", cold_start, "seed=1"))
    assert rows(tmp_path / "three") != rows(tmp_path / "one")


def test_a_resumed_run_equals_an_uninterrupted_one(
    cold_start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the folder of the run alone, which may have been moved; a changed configuration is refused and named."""
    train(small(tmp_path / "whole", cold_start, "save_every=2"))
    stopped = small(tmp_path / "stopped", cold_start, "save_every=2")
    train(stopped)
    run = tmp_path / "stopped"
    for name in ("final", "step-000004"):
        shutil.rmtree(run / "checkpoints" / name)
    with pytest.raises(UsageError, match="holds a run already"):
        train(stopped)
    run = run.rename(tmp_path / "moved")
    before = sorted(path.name for path in run.rglob("*"))
    assert main(["train", "--resume", str(run), "algo.steps=9", "env.reward=accuracy"]) == 2
    refused = capsys.readouterr().err
    assert "(algo.steps, env.reward differ)" in refused
    assert "it has algo.steps=4, env.reward=pm1, and this is algo.steps=9, env.reward=accuracy" in refused
    assert sorted(path.name for path in run.rglob("*")) == before
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_run(tmp_path / "whole", run)


def test_a_run_that_was_ended_early_can_go_on(cold_start: Path, tmp_path: Path) -> None:
    train(small(tmp_path / "whole", cold_start, "algo.steps=3"))
    seen: list[tuple[int, torch.Tensor]] = []

    def after_step(step: int, model: torch.nn.Module) -> bool:
        seen.append((step, next(model.parameters()).detach().clone()))
        return step < 2

    stopped = small(tmp_path / "stopped", cold_start, "algo.steps=3")
    train(stopped, after_step=after_step)
    assert [step for step, _ in seen] == [1, 2]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert [row["step"] for row in rows(tmp_path / "stopped") if row["phase"] == "train"] == [0, 1]
    train(stopped.model_copy(update={"resume": True}))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_does_not_go_on_with_other_problems(cold_start: Path, tmp_path: Path) -> None:
    problems = tmp_path / "sums.jsonl"
    lines = [json.dumps({"prompt": f"{k} + {k} = ", "answer": str(2 * k)}) + "\n" for k in range(20)]
    problems.write_text("".join(lines))
    source = ["problems.name=file", f"problems.path={problems}"]
    settings = small(tmp_path / "run", cold_start, "algo.steps=1", "eval.every=0", *source)
    train(settings)
    problems.write_text("".join(lines[1:]))
    files = [tmp_path / "run" / name for name in ("metrics.jsonl", "trajectories.jsonl")]
    before = [file.read_bytes() for file in files]
    with pytest.raises(UsageError, match="are not those that the run began with"):
        train(settings.model_copy(update={"resume": True}))
    assert [file.read_bytes() for file in files] == before


def test_a_run_without_a_checkpoint_starts_again_and_leaves_no_trace(cold_start: Path, tmp_path: Path) -> None:
    whole, stopped = (small(tmp_path / name, cold_start, "save_every=0") for name in ("whole", "stopped"))
    train(whole)
    train(stopped)
    run = tmp_path / "stopped"
    shutil.rmtree(run / "checkpoints")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tra')
    train(stopped.model_copy(update={"resume": True}))
    assert_same_run(tmp_path / "whole", run)


def test_a_finished_run_is_only_evaluated_again(cold_start: Path, tmp_path: Path) -> None:
    whole, stopped = (small(tmp_path / name, cold_start, "save_every=0") for name in ("whole", "stopped"))
    train(whole)
    train(stopped)
    shutil.rmtree(tmp_path / "stopped" / "eval")
    train(stopped.model_copy(update={"resume": True}))
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=nowhere"], "'nowhere' is no checkpoint"),
        (["problems=gsm8k"], "problems.path is not set"),
        (["env.max_context_tokens=5000"], "the model has 1024 positions"),
        (["env.max_context_tokens=8"], "its prompt has .* max_context_tokens is 8; raise env.max_context_tokens"),
        (["eval.problems=gsm8k", "eval.problems.path=nowhere.jsonl"], "problems.path='nowhere.jsonl': no such file"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    tiny_folder: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(config(tmp_path / "run", tiny_folder, *overrides))
    assert not (tmp_path / "run").exists()
