"""Losses, log-probabilities and advantages against TRL 1.16, where the two mean the same by definition.

``make_goldens.py`` made the numbers with TRL itself. What differs on purpose: TRL adds 1e-4 to a standard deviation.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from algos.advantages import Episodes, make_advantage
from algos.batch import Sample, micro_batches, weighted
from algos.correction import Correction
from algos.losses import KlPenalty, PolicyLoss, make_objective
from algos.per_token import per_token
from algos.scorer import Scorer
from tests.algos.trl.make_goldens import (
    CASES,
    GOLDENS,
    GROUP_SIZE,
    MAX_LENGTH,
    REFERENCE,
    ROWS,
    SAMPLED,
    TRAINED,
    make_model,
)

STORED = json.loads(GOLDENS.read_text(encoding="utf-8"))
GROUPS = np.arange(len(ROWS)) // GROUP_SIZE


def setting(
    *, aggregation: str = "token_mean", objective: str = "clip", options: dict | None = None, **loss: Any
) -> dict:
    return {"aggregation": aggregation, "objective": make_objective(objective, **(options or {})), **loss}


PLAIN = {"low": 0.2, "high": 0.2}
OURS: dict[str, dict[str, Any]] = {
    "grpo": setting(aggregation="sequence_mean", options=PLAIN),
    "dapo": setting(options={"low": 0.2, "high": 0.28}),
    "bnpo": setting(options=PLAIN),
    "dr_grpo": setting(aggregation="sequence_sum", options=PLAIN),
    "delta": setting(options=PLAIN | {"ratio_cap": 1.3}),
    "gspo": setting(aggregation="sequence_mean", objective="gspo", options={"low": 0.02, "high": 0.03}),
    "cispo": setting(objective="cispo", options={"max_ratio": 1.2}),
    "sapo": setting(aggregation="sequence_mean", objective="sapo"),
    "k3": setting(options=PLAIN, kl=KlPenalty(coef=0.3, estimator="k3")),
    "k3_unbiased": setting(options=PLAIN, kl=KlPenalty(coef=0.3, estimator="k3_unbiased")),
    "entropy": setting(options=PLAIN, entropy_coef=0.2),
    "temperature": setting(options=PLAIN),
    "batch_std": setting(options=PLAIN),
    "gdpo": setting(options=PLAIN),
    "truncated": setting(options=PLAIN),
    "token_truncate": setting(options=PLAIN, correction=Correction(weight_cap=1.2)),
    "token_mask": setting(options=PLAIN, correction=Correction(weight_cap=1.3, token_band=(0.8, 1.3))),
    "off_policy": setting(options=PLAIN, correction=Correction(off_policy_gap=0.05)),
}
BY_SAMPLER = ("token_truncate", "token_mask", "off_policy")


def test_every_case_of_trl_is_compared() -> None:
    assert STORED["trl"].startswith("1.16.")
    assert OURS.keys() | {"sequence_mask"} == CASES.keys()
    assert STORED["cases"].keys() == CASES.keys() | {"rloo 0", "rloo 0.3"}


def spread(values: list[float], k: int) -> np.ndarray:
    """Of the completion's tokens, at their places in row ``k``; NaN elsewhere."""
    row = ROWS[k]
    out = np.full(len(row.prompt) + len(row.completion), np.nan, dtype=np.float32)
    out[len(row.prompt) :] = values
    return np.where(trained(k), out, np.nan).astype(np.float32)


def trained(k: int) -> np.ndarray:
    return np.array([0] * len(ROWS[k].prompt) + ROWS[k].written, dtype=np.bool_)


def samples(name: str) -> list[Sample]:
    """The rows, scored by our scorer; TRL's advantages."""
    stored = STORED["cases"][name]
    plain = [
        Sample(
            token_ids=np.array(row.prompt + row.completion),
            trained=trained(k),
            behaviour_logprobs=np.full(len(trained(k)), np.nan, np.float32),
            advantage=stored["advantages"][k],
            order=k,
            group=int(GROUPS[k]),
        )
        for k, row in enumerate(ROWS)
    ]
    temperature = CASES[name].config.get("temperature", 1.0)
    sampled, reference = (
        per_token(Scorer(make_model(shift), temperature=temperature), plain, max_tokens=100)
        for shift in (SAMPLED, REFERENCE)
    )
    return [
        Sample(
            **{
                **vars(s),
                "behaviour_logprobs": spread(STORED["sampler"][k], k) if name in BY_SAMPLER else sampled[k],
                "proximal_logprobs": sampled[k],
                "reference_logprobs": reference[k],
            }
        )
        for k, s in enumerate(plain)
    ]


def step(name: str, ours: dict[str, Any]) -> tuple[float, dict[str, float], dict[str, float]]:
    """Our loss, norms of gradients, and metrics."""
    model, loss = make_model(TRAINED), dict(ours)
    rows = samples(name)
    if name == "truncated":
        rows = [row for row in rows if row.order != 3]
    rows = weighted(rows, loss.pop("aggregation"), constant=MAX_LENGTH)
    module = PolicyLoss(Scorer(model, temperature=CASES[name].config.get("temperature", 1.0)), **loss)
    (batch,) = micro_batches(rows, max_tokens=1000)
    out = module(batch)
    out["loss_objective"].backward()
    norms = {key: float(p.grad.norm()) for key, p in model.named_parameters()}
    return out["loss_objective"].item(), norms, {key: out[key].item() for key in ("clip_fraction", "rejected_fraction")}


@pytest.mark.parametrize("name", OURS)
def test_loss_and_gradients(name: str) -> None:
    stored = STORED["cases"][name]
    loss, norms, metrics = step(name, OURS[name])
    assert loss == pytest.approx(stored["loss"], rel=2e-5, abs=2e-6)
    assert norms == pytest.approx(stored["gradient_norms"], rel=2e-4, abs=1e-6)
    if name in ("grpo", "dapo", "delta", "gspo", "cispo"):
        assert 0 < metrics["clip_fraction"] < 1, "nothing was held back: the case shows nothing"
    if name in ("token_mask", "off_policy"):
        assert 0 < metrics["rejected_fraction"] < 1


def test_no_two_cases_are_the_same_by_chance() -> None:
    """What a setting changes, it changes here: a loss that ignored it would not pass."""
    base = STORED["cases"]["bnpo"]["loss"]
    same = ("bnpo", "batch_std", "gdpo")
    others = [STORED["cases"][name]["loss"] for name in OURS if name not in same]
    assert all(abs(loss - base) > 1e-4 for loss in others)


@pytest.mark.parametrize("name", ["grpo", "temperature"])
def test_log_probabilities_and_entropies(name: str) -> None:
    temperature = CASES[name].config.get("temperature", 1.0)
    scorer, stored = Scorer(make_model(SAMPLED), temperature=temperature), STORED["cases"][name]
    for k, row in enumerate(ROWS):
        ids = torch.tensor([row.prompt + row.completion])
        logprobs, entropies = scorer(ids, torch.arange(ids.shape[1])[None] >= len(row.prompt))
        assert logprobs.tolist() == pytest.approx(stored["logprobs"][k], abs=2e-5)
        assert entropies.tolist() == pytest.approx(stored["entropies"][k], abs=2e-5)


def test_a_sequence_is_rejected_where_trl_rejects_it() -> None:
    """TRL also multiplies what stays by its weight; the sequences that go are the same."""
    factors = STORED["cases"]["sequence_mask"]["factors"]
    model = make_model(SAMPLED)
    module = PolicyLoss(Scorer(model), correction=Correction(sequence_cap=1.5))
    rejected = []
    for k, row in enumerate(samples("sequence_mask")):
        given = Sample(**{**vars(row), "behaviour_logprobs": spread(STORED["sampler"][k], k)})
        (batch,) = micro_batches(weighted([given]), max_tokens=100)
        rejected.append(module(batch)["rejected_fraction"].item())
    assert rejected == [float(values[0] == 0) for values in factors]
    assert 0 < sum(rejected) < len(ROWS)


def episodes(weights: list[float] | None = None, **extra: Any) -> Episodes:
    parts = {name: np.array([row.rewards[n] for row in ROWS]) for n, name in enumerate(("first", "second"))}
    weights = weights or [1.0, 1.0]
    return Episodes(
        rewards=sum(w * part for w, part in zip(weights, parts.values(), strict=True)),
        groups=GROUPS,
        trained=[trained(k) for k in range(len(ROWS))],
        parts=parts,
        part_weights=dict(zip(parts, weights, strict=True)),
        **extra,
    )


@pytest.mark.parametrize(
    ("case", "name", "of"),
    [
        ("grpo", "grpo", episodes()),
        ("dr_grpo", "dr_grpo", episodes()),
        ("batch_std", "lite_ppo", episodes()),
        ("gdpo", "gdpo", episodes([1.0, 0.5])),
        ("rloo 0", "rloo", episodes()),
    ],
)
def test_advantages(case: str, name: str, of: Episodes) -> None:
    credit = make_advantage(name)(of)
    ours = [row[mask][0] for row, mask in zip(credit.advantages, of.trained, strict=True)]
    assert ours == pytest.approx(STORED["cases"][case]["advantages"], rel=1e-3, abs=2e-4)


def test_rloo_with_a_penalty_on_the_reward() -> None:
    """TRL has no tool mask there: all tokens of the completion count."""
    masks = [np.arange(len(r.prompt) + len(r.completion)) >= len(r.prompt) for r in ROWS]
    rows = [
        Sample(token_ids=np.array(r.prompt + r.completion), trained=m, behaviour_logprobs=np.zeros(len(m), np.float32))
        for r, m in zip(ROWS, masks, strict=True)
    ]
    own, reference = (per_token(Scorer(make_model(s)), rows, max_tokens=100) for s in (SAMPLED, REFERENCE))
    kl = [np.nan_to_num(a - b).astype(np.float64) for a, b in zip(own, reference, strict=True)]
    plain = episodes()
    of = Episodes(rewards=plain.rewards, groups=GROUPS, trained=masks, kl=kl, kl_coef=0.3)
    credit = make_advantage("rloo")(of)
    ours = [row[mask][0] for row, mask in zip(credit.advantages, masks, strict=True)]
    assert ours == pytest.approx(STORED["cases"]["rloo 0.3"]["advantages"], rel=1e-4, abs=1e-5)
    assert ours != pytest.approx(STORED["cases"]["rloo 0"]["advantages"], abs=1e-2)
