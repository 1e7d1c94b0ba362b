"""The rollout store: what a run stored trains another to the same bits, and what does not fit is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents.run_folder import read_metrics
from algos.config import TrainConfig
from algos.store import RolloutStore, StoredRollouts, StoreHeader, vocabulary_digest
from algos.train import train
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.tokenizer import ByteTokenizer, load_tokenizer
from retool_env.trajectory import Trajectory, read_trajectories
from tests.algos.test_groups import sampled_by
from tests.algos.test_train import bits, weights

HEADER = StoreHeader(vocabulary="v", group_size=2, prompts_per_step=2, sampling={"temperature": 1.0})


def step_of(first: int) -> list[Trajectory]:
    """Two groups of two."""
    return [
        replace(sampled_by(0, 0, 1), ticket=ticket, group=ticket // 2, sample=ticket % 2)
        for ticket in range(first, first + 4)
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A store of three steps."""
    store = RolloutStore(tmp_path / "run", HEADER)
    for step in range(3):
        store.write(step, step_of(4 * step))
    return tmp_path / "run"


def test_what_was_stored_comes_back(run: Path) -> None:
    stored = StoredRollouts(run, HEADER, num_steps=3)
    for step in (2, 0, 1):  # a resumed run begins anywhere
        assert [*map(bits, stored.collect(step))] == [*map(bits, step_of(4 * step))]
    assert not list(run.glob("**/*.tmp"))
    path = run / "rollouts" / "step-000001.jsonl.gz"
    assert [t.ticket for t in read_trajectories(path)] == [4, 5, 6, 7]


def test_a_resumed_run_drops_what_it_will_write_again(run: Path) -> None:
    (run / "rollouts" / ".step-000002.jsonl.gz.17.tmp").write_bytes(b"torn")
    store = RolloutStore(run, HEADER, first=1)
    assert sorted(path.name for path in (run / "rollouts").glob("step-*")) == ["step-000000.jsonl.gz"]
    store.write(1, step_of(4))
    assert len(StoredRollouts(run, HEADER, num_steps=2).collect(1)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": "w"}, "has ids of another vocabulary; train a model with the tokenizer"),
        ({"group_size": 4}, "has group_size=2; this run has algo.group_size=4, set it to the same"),
        ({"prompts_per_step": 3}, "has prompts_per_step=2; this run has algo.prompts_per_step=3"),
        ({"sampling": {"temperature": 0.7}}, "this run has rollout.sampling=temperature=0.7"),
    ],
)
def test_rollouts_that_do_not_fit_are_refused(run: Path, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StoredRollouts(run, StoreHeader.model_validate({**HEADER.model_dump(), **change}), num_steps=3)


def test_missing_and_damaged_steps_are_named(run: Path) -> None:
    with pytest.raises(UsageError, match=r"has no step 3, and algo\.steps=5; it holds 3 steps, set algo\.steps=3"):
        StoredRollouts(run, HEADER, num_steps=5)
    stored = StoredRollouts(run, HEADER, num_steps=3)
    path = run / "rollouts" / "step-000001.jsonl.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="the file is damaged"):
        stored.collect(1)
    path.write_bytes(gzip.compress(b"\n".join(gzip.decompress(whole).split(b"\n")[:3]) + b"\n"))
    with pytest.raises(UsageError, match="3 trajectories in 2 groups are not the 2 groups of 2 of a step"):
        stored.collect(1)
    path.unlink()
    with pytest.raises(UsageError, match=r"has no step 1, and algo\.steps=3"):
        StoredRollouts(run, HEADER, num_steps=3)


def test_files_of_another_schema_are_refused(run: Path) -> None:
    path = run / "rollouts" / "step-000000.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    path.write_bytes(gzip.compress("".join(json.dumps({**row, "schema": 2}) + "\n" for row in rows).encode()))
    with pytest.raises(UsageError, match="schema 2, and this version reads 1"):
        StoredRollouts(run, HEADER, num_steps=1).collect(0)
    header = run / "rollouts" / "store.json"
    header.write_text(header.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UsageError, match="was it written by another version"):
        StoredRollouts(run, HEADER, num_steps=1)
    with pytest.raises(UsageError, match=r"no rollouts/store\.json there; give the folder of a run"):
        StoredRollouts(run / "rollouts", HEADER, num_steps=1)


def test_a_vocabulary_is_known_by_its_ids(tiny_folder: Path) -> None:
    class Shifted(ByteTokenizer):
        def decode(self, ids: list) -> str:
            return super().decode([(i + 1) % 256 for i in ids])

    digests = {vocabulary_digest(t) for t in (ByteTokenizer(), Shifted(), load_tokenizer(str(tiny_folder)))}
    assert len(digests) == 3
    assert vocabulary_digest(ByteTokenizer()) in digests


def config(out: Path, start: Path, *overrides: str) -> TrainConfig:
    sizes = ["algo.prompts_per_step=4", "algo.group_size=4", "algo.steps=3", "eval.every=0", "eval.problems.size=4"]
    fixed = ["experiment=tiny_grpo", "threads=1", f"out={out}", f"model.path={start}", *sizes, "eval.greedy=false"]
    return compose("train", TrainConfig, [*fixed, *overrides])


def test_training_from_a_store_makes_the_same_weights(
    cold_start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine and without an environment."""
    played = tmp_path / "played"
    train(config(played, cold_start))
    stored = [t for path in sorted((played / "rollouts").glob("step-*")) for t in read_trajectories(path)]
    assert [t.ticket for t in stored] == list(range(48))

    def refuse(*args: object, **settings: object) -> None:
        raise AssertionError("something is played")

    for name in ("make_player", "make_rollouts", "check_prompts", "evaluate"):
        monkeypatch.setattr(f"algos.train.{name}", refuse)
    replayed = tmp_path / "replayed"
    train(config(replayed, cold_start, f"rollout.replay={played}", "save_every=2"))
    one, two = weights(played), weights(replayed)
    assert all(torch.equal(one[name], two[name]) for name in one)
    start = weights_of(cold_start)
    assert any(not torch.equal(one[name], start[name]) for name in one), "nothing was learnt: the test shows nothing"
    assert not (replayed / "rollouts").exists()
    assert not (replayed / "eval").exists()
    rows = [row for row in read_metrics(replayed / "metrics.jsonl") if row["phase"] == "train"]
    theirs = [row for row in read_metrics(played / "metrics.jsonl") if row["phase"] == "train"]
    assert [r["actor/loss"] for r in rows if "actor/loss" in r] == [
        r["actor/loss"] for r in theirs if "actor/loss" in r
    ]
    shutil.rmtree(replayed / "checkpoints" / "final")  # a replayed run is resumed like any other
    train(config(replayed, cold_start, f"rollout.replay={played}", "save_every=2", "resume=true"))
    assert all(torch.equal(one[name], tensor) for name, tensor in weights(replayed).items())


def losses(run: Path) -> list[object]:
    return [row.get("actor/loss") for row in read_metrics(run / "metrics.jsonl") if row["phase"] == "train"]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_mistakes_about_a_replay_are_named_before_anything_is_written(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no rollouts/store\.json there"):
        train(config(tmp_path / "run", tiny_folder, f"rollout.replay={tmp_path / 'nowhere'}"))
    assert not (tmp_path / "run").exists()
