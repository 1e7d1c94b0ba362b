"""The pieces of ``benchmarks/training.py`` at a small size: what is compared is the same work."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_layouts_take_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    from engines.steps import make_work
    from train_retool import steps

    work = make_work(tmp_path, prompts=2, steps=1)
    rows = json.loads(work.path.read_text())["steps"][0]
    assert work.trained == [sum(sum(row["trained"]) for row in rows)]
    prompts = [row["token_ids"][: row["prompt_length"]] for row in rows]
    assert prompts[0] == prompts[7] != prompts[8], "eight episodes have one prompt"
    assert all(not any(row["trained"][: row["prompt_length"]]) for row in rows)
    found = []
    for layout in ("shared", "sorted"):
        taken = list(islice(steps({"work": str(work.path), "algo": {"layout": layout}}), 2))
        assert all(step["seconds"] > 0 for step in taken)
        found.append([(step["loss"], step["grad_norm"]) for step in taken])
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_the_bound_counts_what_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from engines.steps import counted, products, skewed_samples

    from algos.actor_critic import around
    from algos.config import TrainConfig
    from algos.policy.world import World
    from algos.update import update
    from tests.algos.loss_tools import VOCAB, small_model

    samples = skewed_samples(2, vocab=VOCAB, prompt=9, median=6, limits=(3, 12))
    model = small_model()
    with counted(model) as ran:
        update(around(model, TrainConfig()), samples, TrainConfig(), World(), step=0)
    distinct = {tuple(s.token_ids[: k + 1]) for s in samples for k in range(len(s) - 1)}
    assert ran.tokens == len(distinct) < sum(map(len, samples)) - len(samples)
    assert ran.scored == len({tuple(s.token_ids[: k + 1]) for s in samples for k in range(9, len(s))})
    assert products(small_model().float(), tokens=ran.tokens, scored=ran.scored) > 0
