"""Rollout correction, KL terms and entropy bonus: hand values, the gradients they promise, every knob."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algos.correction import Correction
from algos.losses import KlPenalty, PolicyLoss
from algos.tokens import TrainedTokens
from retool_env.errors import UsageError
from tests.algos.loss_tools import NAN, Table, one_row


def factors(log_w: list[float], sequence: list[int] | None = None, *, rule: Correction, **extra: list[float]) -> list:
    """The correction of tokens whose proximal policy is the current one."""
    proximal = torch.full((len(log_w),), -1.0, dtype=torch.float64)
    behaviour = proximal - torch.tensor(log_w, dtype=torch.float64)
    values = {"logprobs": proximal, "advantages": torch.ones_like(proximal)}
    values |= {name: torch.tensor(row, dtype=torch.float64) for name, row in extra.items()}
    index = torch.tensor(sequence or [0] * len(log_w))
    return rule(TrainedTokens(proximal=proximal, behaviour=behaviour, sequence=index, **values)).tolist()


def test_token_rules_by_hand() -> None:
    log_w = [0.0, np.log(1.9), np.log(6.0), np.log(0.4)]
    assert factors(log_w, rule=Correction(weight_cap=2.0)) == pytest.approx([1.0, 1.9, 2.0, 0.4])
    assert factors(log_w, rule=Correction(weight_cap=float("inf"))) == pytest.approx([1.0, 1.9, 6.0, 0.4])
    assert factors(log_w, rule=Correction(token_band=(0.5, 5.0))) == [1.0, 1.0, 0.0, 0.0]
    icepop = Correction(weight_cap=5.0, token_band=(0.5, 5.0))
    assert factors(log_w, rule=icepop) == pytest.approx([1.0, 1.9, 0.0, 0.0])
    assert factors(log_w, rule=Correction()) == [1.0] * 4


def test_sequence_rules_by_hand() -> None:
    """Three sequences: sums of log w 1.2, 0.9 and -2; means 0.4, 0.9 and -1."""
    log_w, sequence = [0.4, 0.4, 0.4, 0.9, -1.0, -1.0], [0, 0, 0, 1, 2, 2]
    assert factors(log_w, sequence, rule=Correction(sequence_cap=3.0)) == [0, 0, 0, 1, 1, 1]
    band = (float(np.exp(-0.5)), float(np.exp(0.5)))
    assert factors(log_w, sequence, rule=Correction(geometric_band=band)) == [1, 1, 1, 0, 0, 0]
    both = Correction(geometric_band=band, sequence_cap=3.0)
    assert factors(log_w, sequence, rule=both) == [0] * 6


def test_the_off_policy_mask_looks_at_the_current_policy_and_at_bad_samples() -> None:
    """Current log-probabilities fell by 0.6 on average in a bad and a good sequence, and by 0.4 in a bad one."""
    extra = {
        "logprobs": [-1.1, -2.1, -1.1, -2.1, -1.4, -1.4],
        "advantages": [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0],
    }
    rule = Correction(off_policy_gap=0.5)
    assert factors([0.0] * 6, [0, 0, 1, 1, 2, 2], rule=rule, **extra) == [0, 0, 1, 1, 1, 1]
    assert not rule.needs_proximal


def test_the_factor_multiplies_the_loss_and_has_no_gradient() -> None:
    """Decoupled PPO: clipping is against the proximal policy, the weight is proximal over behaviour."""
    scorer = Table([-0.8, -0.2])
    batch = one_row([-1.5, -1.0], [1.0, 1.0], proximal_logprobs=[-1.0, -1.0])
    out = PolicyLoss(scorer, correction=Correction(weight_cap=float("inf")))(batch)
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(-np.exp(0.5) * np.exp(0.2) - 1.28)
    assert scorer.logprobs.grad.tolist() == pytest.approx([-np.exp(0.5) * np.exp(0.2), 0.0])
    assert out["clip_fraction"].item() == 1.0, "one of two tokens of weight 1"
    rejected = PolicyLoss(scorer, correction=Correction(token_band=(0.9, 1.1)))(batch)
    assert rejected["rejected_fraction"].item() == 1.0
    assert rejected["loss_objective"].item() == pytest.approx(-1.28)


def test_a_correction_without_the_trainers_own_logprobs_is_refused() -> None:
    """With ratios against the behaviour, a weight besides would count the ratio twice."""
    with pytest.raises(UsageError, match="the batch has no 'proximal_logprobs'"):
        PolicyLoss(Table([-1.0]), correction=Correction(weight_cap=2.0))(one_row([-1.0], [1.0]))
    PolicyLoss(Table([-1.0]), correction=Correction(off_policy_gap=0.5))(one_row([-1.0], [1.0]))


@pytest.mark.parametrize("missing", [NAN, float("-inf"), float("inf")])
def test_a_sampler_without_a_finite_logprob_is_not_corrected(missing: float) -> None:
    scorer = Table([-0.9])
    batch = one_row([missing], [1.0], proximal_logprobs=[-1.0])
    out = PolicyLoss(scorer, correction=Correction(weight_cap=2.0, token_band=(0.5, 2.0), sequence_cap=3.0))(batch)
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(-np.exp(0.1))
    assert scorer.logprobs.grad.item() == pytest.approx(-np.exp(0.1))


def kl_terms(estimator: str, gap: float, off: float = 0.0) -> tuple[float, float]:
    """Value and gradient of the penalty at ``log p - log f = gap`` and ``log p - log u = off``."""
    scorer = Table([-1.0])
    batch = one_row([-1.0 - off], [0.0], reference_logprobs=[-1.0 - gap])
    out = PolicyLoss(scorer, kl=KlPenalty(coef=2.0, estimator=estimator))(batch)
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(2.0 * out["kl_reference"].item())
    return out["kl_reference"].item(), scorer.logprobs.grad.item() / 2


@pytest.mark.parametrize("gap", [-1.2, 0.0, 0.7])
def test_kl_estimators_by_hand(gap: float) -> None:
    k3 = np.exp(-gap) - 1 + gap
    assert kl_terms("k1", gap) == pytest.approx((gap, 1.0))
    assert kl_terms("k2", gap) == pytest.approx((gap**2 / 2, gap))
    assert kl_terms("k3", gap) == pytest.approx((k3, 1 - np.exp(-gap)))
    assert kl_terms("k3_unbiased", gap) == pytest.approx((k3, gap))
    assert kl_terms("k3_unbiased", gap, off=0.3) == pytest.approx((np.exp(0.3) * k3, np.exp(0.3) * gap))
    assert kl_terms("k3", gap, off=0.3) == pytest.approx((k3, 1 - np.exp(-gap)))


def test_what_each_estimator_is_the_gradient_of() -> None:
    """Exact expectations over a small vocabulary: off policy, only the corrected one is the reverse KL."""
    generator = torch.Generator().manual_seed(1)
    logits, other, reference = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    u, f = other.log_softmax(-1), reference.log_softmax(-1)

    def expected(estimator: str, behaviour: torch.Tensor) -> torch.Tensor:
        z = logits.clone().requires_grad_()
        p = z.log_softmax(-1)
        ids = torch.zeros(6, dtype=torch.long)
        row = TrainedTokens(logprobs=p, proximal=behaviour, behaviour=behaviour, advantages=p.detach(), sequence=ids)
        (KlPenalty(coef=1.0, estimator=estimator)(row, f) * behaviour.exp()).sum().backward()
        return z.grad

    z = logits.clone().requires_grad_()
    p = z.log_softmax(-1)
    (p.exp() * (p - f)).sum().backward()
    reverse = z.grad
    on_policy = logits.log_softmax(-1)
    assert torch.allclose(expected("k3_unbiased", u), reverse, atol=1e-12)
    assert torch.allclose(expected("k3_unbiased", on_policy), reverse, atol=1e-12)
    assert torch.allclose(expected("k2", on_policy), reverse, atol=1e-12)
    assert torch.allclose(expected("k1", on_policy), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert not torch.allclose(expected("k3", on_policy), reverse, atol=1e-3)
    forward = on_policy.exp() - f.exp()  # the gradient of KL(f, p) by the logits
    assert torch.allclose(expected("k3", on_policy), forward, atol=1e-12)


def test_a_reference_far_away_stays_finite() -> None:
    """In both directions, and beyond what float64 can hold as a ratio."""
    for estimator in ("k1", "k2", "k3", "k3_unbiased"):
        for gap in (-1e4, 1e4):
            assert np.isfinite(kl_terms(estimator, gap)).all(), estimator
            assert np.isfinite(kl_terms(estimator, gap, off=gap)).all(), estimator


def test_the_entropy_bonus_raises_entropy() -> None:
    scorer = Table([-1.0, -1.0], entropy=[0.3, 0.5])
    out = PolicyLoss(scorer, entropy_coef=0.1)(one_row([-1.0, -1.0], [0.0, 0.0], [0.25, 0.75]))
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(-0.1 * (0.25 * 0.3 + 0.75 * 0.5))
    assert scorer.entropy.grad.tolist() == pytest.approx([-0.025, -0.075])
    assert out["entropy"].item() == pytest.approx(0.25 * 0.3 + 0.75 * 0.5)


RULES = [
    {"correction": Correction(weight_cap=1.1)},
    {"correction": Correction(token_band=(0.9, 1.1))},
    {"correction": Correction(sequence_cap=1.1)},
    {"correction": Correction(geometric_band=(0.99, 1.01))},
    {"correction": Correction(off_policy_gap=1e-4)},
    {"kl": KlPenalty(coef=0.1)},
    {"kl": KlPenalty(coef=0.1, estimator="k2")},
    {"entropy_coef": 0.1},
    {"clip_low": 0.4},
    {"clip_high": 0.6},
]


@pytest.mark.parametrize("knob", RULES)
def test_every_knob_changes_the_loss(knob: dict) -> None:
    batch = one_row(
        [-1.0, -1.2, -1.5],
        [1.0, -1.0, -1.0],
        sequences=[0, 1, 2],
        proximal_logprobs=[-1.2, -1.0, -1.3],
        reference_logprobs=[-2.0, -2.0, -2.0],
    )
    scorer = Table([-0.7, -1.6, -1.55])
    plain = PolicyLoss(scorer)(batch)["loss_objective"].item()
    assert abs(PolicyLoss(scorer, **knob)(batch)["loss_objective"].item() - plain) > 1e-4


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"correction.weight_cap=0.0: expected a number > 0"):
        Correction(weight_cap=0.0)
    with pytest.raises(UsageError, match=r"correction.token_band=\[2, 5\]: expected two numbers with 1 between"):
        Correction(token_band=(2, 5))
    with pytest.raises(UsageError, match="no KL estimator 'k4'"):
        KlPenalty(coef=0.1, estimator="k4")
    with pytest.raises(UsageError, match="KL coefficient -1"):
        KlPenalty(coef=-1)
