"""The policy loss against hand values, float64 oracles and TorchRL's own loss; invariant 3 on masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from agents.loading import load_model
from algos.batch import Sample, micro_batches, token_mean_weight
from algos.losses import PolicyLoss
from algos.scorer import Scorer


class Table(nn.Module):
    """A scorer whose log-probabilities are parameters: the loss alone is under test."""

    def __init__(self, logprobs: list[float]) -> None:
        super().__init__()
        self.logprobs = nn.Parameter(torch.tensor(logprobs, dtype=torch.float64))

    def forward(self, token_ids: torch.Tensor, trained: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.logprobs, torch.full_like(self.logprobs, 0.5).detach()


def one_row(behaviour: list[float], advantages: list[float], weights: list[float]) -> TensorDict:
    num = len(behaviour)
    values = {
        "token_ids": torch.zeros(1, num + 1, dtype=torch.long),
        "trained": torch.tensor([[False] + [True] * num]),
        "behaviour_logprobs": torch.tensor([[float("nan"), *behaviour]], dtype=torch.float64),
        "advantages": torch.tensor([[0.0, *advantages]], dtype=torch.float64),
        "weights": torch.tensor([[0.0, *weights]], dtype=torch.float64),
    }
    return TensorDict(values, batch_size=[1, num + 1])


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.28, 0.0),  # clipped above at 1 + 0.28
        (0.5, 1.0, -0.5, -0.5),  # the lower bound does not hold back a positive advantage
        (0.5, -1.0, 0.8, 0.0),  # clipped below at 1 - 0.2
        (1.5, -1.0, 1.5, 1.5),  # the upper bound does not hold back a negative one
    ],
)
def test_clipping_by_hand(ratio: float, advantage: float, value: float, gradient: float) -> None:
    scorer = Table([float(np.log(ratio)) - 1.0])
    out = PolicyLoss(scorer)(one_row([-1.0], [advantage], [1.0]))
    assert float(out["loss_objective"].detach()) == pytest.approx(value)
    out["loss_objective"].backward()
    assert float(scorer.logprobs.grad[0]) == pytest.approx(gradient)


def test_metrics_are_weighted_means_over_trained_tokens() -> None:
    scorer = Table([-1.0, float(np.log(1.5)) - 1.0])
    out = PolicyLoss(scorer)(one_row([-1.0, -1.0], [1.0, 1.0], [0.25, 0.75]))
    assert float(out["clip_fraction"]) == pytest.approx(0.75)
    assert float(out["kl_approx"]) == pytest.approx(-0.75 * np.log(1.5))
    assert float(out["entropy"]) == pytest.approx(0.5)
    assert float(out["logprob_gap"]) == pytest.approx(np.log(1.5))


def test_a_token_without_behaviour_logprob_has_ratio_one() -> None:
    scorer = Table([-3.0])
    out = PolicyLoss(scorer)(one_row([float("nan")], [2.0], [1.0]))
    out["loss_objective"].backward()
    assert float(out["loss_objective"]) == pytest.approx(-2.0)
    assert float(scorer.logprobs.grad[0]) == pytest.approx(-2.0)
    assert float(out["logprob_gap"]) == 0.0


@pytest.mark.parametrize("knob", [{"clip_low": 0.4}, {"clip_high": 0.6}])
def test_every_knob_changes_the_loss(knob: dict) -> None:
    batch = one_row([-1.0, -1.0], [1.0, -1.0], [0.5, 0.5])
    scorer = Table([float(np.log(1.5)) - 1.0, float(np.log(0.5)) - 1.0])
    plain = PolicyLoss(scorer)(batch)["loss_objective"]
    assert float(PolicyLoss(scorer, **knob)(batch)["loss_objective"]) != pytest.approx(float(plain))


def make_samples(num: int, vocab: int, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for order in range(num):
        length = int(rng.integers(6, 30))
        trained = rng.random(length) < 0.5
        trained[0], trained[-1] = False, True
        logprobs = np.where(trained, -rng.random(length) * 3, np.nan).astype(np.float32)
        samples.append(
            Sample(
                token_ids=rng.integers(0, vocab, length),
                trained=trained,
                behaviour_logprobs=logprobs,
                advantage=float(rng.normal()),
                order=order,
            )
        )
    return samples


def gradients(model: nn.Module, samples: list[Sample], *, max_tokens: int = 10_000) -> torch.Tensor:
    model.zero_grad()
    loss = PolicyLoss(Scorer(model, chunk=16))
    for batch in micro_batches(samples, max_tokens=max_tokens, weight=token_mean_weight(samples)):
        loss(batch)["loss_objective"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> nn.Module:
    return load_model(str(tiny_folder)).double()


def test_what_is_masked_changes_no_gradient_and_inputs_do(model: nn.Module) -> None:
    """Invariant 3: quantities at untrained positions are nothing; the tokens there are context."""
    samples = make_samples(5, 300)
    plain = gradients(model, samples)
    garbage = []
    for sample in samples:
        logprobs = np.where(sample.trained, sample.behaviour_logprobs, np.float32(7.0))
        garbage.append(Sample(**{**vars(sample), "behaviour_logprobs": logprobs}))
    assert torch.equal(gradients(model, garbage), plain)
    other = []
    for sample in samples:
        ids = np.where(sample.trained, sample.token_ids, (sample.token_ids + 1) % 300)
        other.append(Sample(**{**vars(sample), "token_ids": ids}))
    assert not torch.allclose(gradients(model, other), plain, rtol=1e-3)


@pytest.mark.parametrize("max_tokens", [1, 40, 100])
def test_gradients_do_not_depend_on_micro_batches(model: nn.Module, max_tokens: int) -> None:
    samples = make_samples(9, 300)
    whole = gradients(model, samples)
    split = gradients(model, samples, max_tokens=max_tokens)
    assert (whole - split).abs().max() <= 1e-6 * whole.abs().max()
    shuffled = gradients(model, samples[::-1], max_tokens=max_tokens)
    assert (whole - shuffled).abs().max() <= 1e-6 * whole.abs().max()


def test_equals_the_loss_written_out_over_full_logits(model: nn.Module) -> None:
    """An oracle that shares no code: all logits at once, log-space clipping, a plain mean over the trained tokens."""
    samples = make_samples(4, 300)
    (batch,) = micro_batches(samples, max_tokens=10_000, weight=token_mean_weight(samples))
    ours = PolicyLoss(Scorer(model, chunk=7))(batch)["loss_objective"]
    logprobs = model(input_ids=batch["token_ids"]).logits[:, :-1].double().log_softmax(-1)
    logprobs = logprobs.gather(-1, batch["token_ids"][:, 1:, None])[..., 0]
    mask, advantages = batch["trained"][:, 1:], batch["advantages"][:, 1:].double()
    gap = (logprobs - batch["behaviour_logprobs"][:, 1:].double()).masked_fill(~mask, 0.0)
    clipped = gap.clamp(float(np.log1p(-0.2)), float(np.log1p(0.28)))
    expected = -torch.minimum(gap.exp() * advantages, clipped.exp() * advantages)[mask].mean()
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)
