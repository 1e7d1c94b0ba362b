"""``retool eval``: the oracle on GSM8K, resuming, and what the list of misses says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.evaluate import evaluate_agent, miss_cause
from agents.run_folder import RunFolder, read_metrics
from algos.config import TrainConfig
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.trajectory import read_trajectories


def config(tmp_path: Path, *overrides: str) -> EvalConfig:
    return compose("eval", EvalConfig, [f"out={tmp_path / 'run'}", "agent=oracle", *overrides])


def test_the_oracle_on_all_of_gsm8k(tmp_path: Path, gsm8k_test: Path) -> None:
    (total,) = evaluate_agent(config(tmp_path, "problems=gsm8k", f"problems.path={gsm8k_test}"))
    assert total.accuracy.num == 1319
    assert 0.905 <= total.accuracy.mean <= 0.925
    causes = [miss_cause(t) for t in read_trajectories(tmp_path / "run" / "trajectories.jsonl")]
    missed = {cause for cause in causes if cause}
    # 18 rows have no annotation; in all others the annotated program itself ends in another value.
    assert missed == {"no answer: no_answer", "program or answer: wrong value"}
    assert causes.count("no answer: no_answer") == 18


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    settings = config(tmp_path, "problems.split=heldout", "problems.size=20", "num_slots=4")
    evaluate_agent(settings)
    path = tmp_path / "run" / "trajectories.jsonl"
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + lines[7][:100], encoding="utf-8")  # torn by a kill
    summaries = evaluate_agent(settings)
    tickets = [t.ticket for t in read_trajectories(path)]
    assert sorted(tickets) == list(range(20))
    assert tickets[:7] == [json.loads(line)["ticket"] for line in lines[:7]]
    assert summaries[0].accuracy.mean == 1.0


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    evaluate_agent(config(tmp_path, "problems.split=heldout", "problems.size=5"))
    with pytest.raises(UsageError, match=r"another configuration \(seed, problems.size differ\)"):
        evaluate_agent(config(tmp_path, "problems.split=heldout", "problems.size=6", "seed=1"))


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", EvalConfig())
    with pytest.raises(UsageError, match="holds a run already; give another out"):
        RunFolder(tmp_path / "run", EvalConfig())


def test_metrics_round_trip_without_a_torn_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", EvalConfig())
    run.log("train", 0, {"loss": 1.5, "gap": float("nan")})
    run.log("train", 1, {"loss": 1.25})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "tra')
    rows = read_metrics(run.path / "metrics.jsonl")
    assert rows == [
        {"phase": "train", "step": 0, "loss": 1.5, "gap": None},
        {"phase": "train", "step": 1, "loss": 1.25},
    ]
    run.keep_metrics(lambda phase, step: step < 1)
    assert read_metrics(run.path / "metrics.jsonl") == rows[:1]


def test_an_episode_that_failed_is_played_again_and_counts_once(tmp_path: Path) -> None:
    settings = config(tmp_path, "problems.split=heldout", "problems.size=5")
    evaluate_agent(settings)
    path = tmp_path / "run" / "trajectories.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    failed = {**json.loads(lines[2]), "outcome": "sandbox_outage", "verdict": None}
    path.write_text("\n".join([*lines[:2], json.dumps(failed), *lines[3:], ""]), encoding="utf-8")
    for _ in range(2):
        total = evaluate_agent(settings)[0]
        assert (total.accuracy.num, total.num_failed) == (5, 0)


def test_a_run_may_be_moved(tmp_path: Path) -> None:
    RunFolder(tmp_path / "one", EvalConfig(out=str(tmp_path / "one")))
    (tmp_path / "one").rename(tmp_path / "two")
    RunFolder(tmp_path / "two", EvalConfig(out=str(tmp_path / "two")), resume=True)


def test_an_override_replaces_a_mapping_of_a_recipe() -> None:
    settings = compose("train", TrainConfig, ["experiment=tiny_strategic", "threads=1", "problems.families={add: 1}"])
    assert settings.problems.families == {"add": 1.0}
    assert compose("train", TrainConfig, ["eval.problems=gsm8k"]).eval.problems.name == "gsm8k"
