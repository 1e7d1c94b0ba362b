"""The cold start: loss by hand, schedule, order, and the same bits for the same seed."""

from __future__ import annotations

import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from agents.loading import load_model
from agents.run_folder import is_time, read_metrics
from algos.actor_critic import ActorCritic, Trained
from algos.batch import Sample
from algos.config import OptimConfig, SftConfig, TrainConfig
from algos.losses import SftLoss
from algos.policy.config import LoraConfig, PolicyOptions
from algos.policy.model import prepare, trainable
from algos.policy.world import World
from algos.schedule import lr_factor
from algos.scorer import Scorer
from algos.sft import sft, sft_update
from algos.sft_data import sft_steps
from retool_env.compose import compose
from tests.algos.loss_tools import small_model
from tests.algos.policy.options import moved


def sample(length: int, order: int) -> Sample:
    trained = np.arange(length) >= 2
    ids = np.full(length, order, dtype=np.int64)
    return Sample(token_ids=ids, trained=trained, behaviour_logprobs=np.full(length, np.nan, np.float32), order=order)


def test_the_loss_is_the_mean_over_trained_tokens(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder))
    rows = [sample(5, 30), sample(9, 40)]
    picked = []
    with torch.no_grad():
        for row in rows:
            ids = torch.from_numpy(row.token_ids)[None]
            logprobs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
            picked.append(logprobs.gather(-1, ids[0, 1:, None])[row.trained[1:], 0])
    trained = Trained(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    for layout, tokens in (("sorted", None), ("packed", None), ("sorted", 9)):
        config = SftConfig(layout=layout, micro_batch_tokens=tokens)
        metrics = sft_update(SftLoss(Scorer(model)), trained, rows, config, World(), lr=0.0)
        assert metrics["loss"] == pytest.approx(-float(torch.cat(picked).mean()), rel=1e-5)
        norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
        assert norm == pytest.approx(min(1.0, metrics["grad_norm"]), rel=1e-4), "clipped to 1"
        assert metrics["num_skipped_updates"] == 0


def test_what_is_not_finite_changes_nothing_and_is_counted(tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder))
    trained = Trained(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    before = {name: p.clone() for name, p in model.named_parameters()}
    metrics = sft_update(SftLoss(Scorer(model)), trained, [sample(5, 30)], SftConfig(), World(), lr=1.0)
    assert metrics["num_skipped_updates"] == 1 and not math.isfinite(metrics["loss"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_only_adapters_drop_anything_out() -> None:
    """The dropout of the model itself stays off, that of adapters is on."""
    rows = [sample(9, 30), sample(9, 40)]

    def losses(options: PolicyOptions) -> set[float]:
        held = prepare(small_model(attention_dropout=0.5).float(), options, World())
        trained = Trained(model=moved(held), optimizer=torch.optim.SGD(trainable(held), lr=0.0))
        return {
            sft_update(SftLoss(Scorer(held)), trained, rows, SftConfig(), World(), lr=0.0)["loss"] for _ in range(3)
        }

    assert len(losses(PolicyOptions())) == 1
    assert len(losses(PolicyOptions(lora=LoraConfig(r=4, dropout=0.5)))) == 3
    assert len(losses(PolicyOptions(lora=LoraConfig(r=4, dropout=0.0)))) == 1


def test_batches_stay_in_their_window() -> None:
    rows = [sample(3 + (7 * k) % 11, k) for k in range(100)]
    seen = [[row.order for row in step] for step in sft_steps(rows, max_tokens=40, window=25, seed=1)]
    flat = [order for batch in seen for order in batch]
    assert sorted(flat) == list(range(100))
    assert [{order // 25 for order in flat[start : start + 25]} for start in range(0, 100, 25)] == [{0}, {1}, {2}, {3}]
    assert flat != sorted(flat)


def test_a_step_may_be_a_number_of_traces() -> None:
    """In their order, and with micro-batches of their own the same gradient."""
    rows = [sample(3 + (7 * k) % 11, k) for k in range(10)]
    steps = [[row.order for row in step] for step in sft_steps(rows, max_tokens=1, num=4, window=2, seed=1)]
    assert steps == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    held = small_model().float()
    trained = Trained(model=held, optimizer=torch.optim.SGD(held.parameters(), lr=0.0))
    cuts = [SftConfig(batch_traces=10, micro_batch_tokens=tokens) for tokens in (None, 20)]
    assert cuts[0].pass_tokens == cuts[0].env.max_context_tokens and cuts[1].pass_tokens == 20
    norms = [sft_update(SftLoss(Scorer(held)), trained, rows, c, World(), lr=0.0)["grad_norm"] for c in cuts]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_schedule() -> None:
    cosine = OptimConfig(schedule="cosine", warmup_steps=10, lr_floor=0.1)
    assert lr_factor(cosine, 0, progress=0.0, risen=0.0) == pytest.approx(0.1)
    assert lr_factor(cosine, 9, progress=0.09, risen=0.1) == pytest.approx(1.0), "before the fall begins"
    assert lr_factor(cosine, 99, progress=0.4, risen=0.1) == pytest.approx(
        0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 3))
    )
    assert lr_factor(cosine, 99, progress=1.0, risen=0.1) == pytest.approx(0.1)
    assert lr_factor(OptimConfig(schedule="linear", lr_floor=0.2), 5, progress=0.25, risen=0.0) == pytest.approx(0.8)
    steady = lr_factor(OptimConfig(warmup_steps=4), 1, progress=0.9, risen=0.9)
    assert steady == pytest.approx(0.5), "constant behind the rise"


class Held:
    """What :meth:`ActorCritic.set_progress` needs of a trainer."""

    def __init__(self) -> None:
        self.optimizers = {"actor": torch.optim.SGD([torch.zeros(1)], lr=1.0)}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 50, 99, 200])
def test_the_schedule_of_a_run_is_that_of_transformers(schedule: str, warmup: int) -> None:
    """The rise is one step ahead: theirs starts at 0."""
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[schedule]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    theirs = make(optimizer, warmup, 100)
    expected = []
    for _ in range(101):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    optim = {"lr": 3e-4, "schedule": schedule, "warmup_steps": warmup, "lr_floor": 0.0}
    config = TrainConfig(algo={"steps": 100}, optim=optim)
    ours = [ActorCritic.set_progress(Held(), step, config)["actor"] for step in range(100)]  # type: ignore[arg-type]
    assert ours == pytest.approx([expected[step + (step < warmup)] for step in range(100)], rel=1e-6, abs=1e-12)
    assert warmup > 100 or max(ours) == pytest.approx(3e-4), "the peak is lr"


def test_a_cold_start_gets_to_its_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its progress is counted in traces, of which steps have different numbers."""
    rates = []

    def watch(*args: object, lr: float, **settings: object) -> dict[str, float]:
        rates.append(lr)
        return {"loss": 0.0, "grad_norm": 0.0, "num_skipped_updates": 0.0}

    monkeypatch.setattr("algos.sft.sft_update", watch)
    sizes = ["traces.num=200", "traces.epochs=1", "eval.problems.size=1", "eval.every=0", "optim.lr=0.5"]
    optim = ["optim.schedule=linear", "optim.warmup_steps=5", "optim.lr_floor=0"]
    sft(compose("sft", SftConfig, ["experiment=tiny_sft", "threads=1", f"out={tmp_path}", *sizes, *optim]))
    assert len(rates) > 8
    assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5]), "and begins to fall from there"
    assert all(one > two > 0 for one, two in itertools.pairwise(rates[5:]))


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    runs = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        overrides = ["experiment=tiny_sft", "threads=1", f"out={tmp_path / name}", f"seed={seed}", "traces.num=1200"]
        checkpoint = sft(compose("sft", SftConfig, [*overrides, "eval.problems.size=10"]))
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        numbers = [{k: v for k, v in row.items() if not is_time(k)} for row in rows]
        runs.append((load_file(checkpoint / "model.safetensors"), numbers))
    assert runs[0][1] == runs[1][1] != runs[2][1]
    assert all(torch.equal(runs[0][0][name], runs[1][0][name]) for name in runs[0][0])


def test_a_resumed_cold_start_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped between two checkpoints: it goes on from the first, and nothing is logged twice."""
    runs = {}
    for name in ("whole", "stopped"):
        overrides = ["experiment=tiny_sft", "threads=1", f"out={tmp_path / name}", "traces.num=1200", "save_every=20"]
        config = compose("sft", SftConfig, [*overrides, "eval.problems.size=10", "eval.greedy=false"])
        checkpoint = sft(config)
        if name == "stopped":
            kept = sorted((tmp_path / name / "checkpoints").glob("step-*"))[-2]
            for folder in (tmp_path / name / "checkpoints").iterdir():
                if folder.name > kept.name or folder.name == "final":
                    shutil.rmtree(folder)
            sft(config.model_copy(update={"resume": True}))
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        runs[name] = ([{k: v for k, v in row.items() if not is_time(k)} for row in rows], checkpoint)
    whole, stopped = (load_file(runs[name][1] / "model.safetensors") for name in runs)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    assert runs["whole"][0] == runs["stopped"][0]
