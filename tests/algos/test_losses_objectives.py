"""Every objective by hand at its edges, against formulas written out independently in float64, and by difference."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.batch import Sample
from algos.losses import OBJECTIVES, PolicyLoss, check_aggregation, make_objective, select_covariant
from algos.tokens import TrainedTokens
from retool_env.errors import UsageError
from tests.algos.loss_tools import NAN, Table, one_row


def step(objective: object, ratio: float, advantage: float) -> tuple[float, float, float]:
    """Loss, gradient and share of held tokens of one token with this ratio."""
    scorer = Table([float(np.log(ratio)) - 1.0])
    out = PolicyLoss(scorer, objective=objective)(one_row([-1.0], [advantage]))
    out["loss_objective"].backward()
    return out["loss_objective"].item(), scorer.logprobs.grad[0].item(), out["clip_fraction"].item()


HAND = [
    # objective, options, ratio, advantage, loss, gradient by log p, held back
    ("clip", {}, 1.0, 2.0, -2.0, -2.0, 0),
    ("clip", {}, 1.1, 1.0, -1.1, -1.1, 0),
    ("clip", {}, 1.5, 1.0, -1.28, 0.0, 1),  # clipped above at 1 + 0.28
    ("clip", {"high": 0.2}, 1.25, 1.0, -1.2, 0.0, 1),  # plain PPO has 0.2 on both sides
    ("clip", {}, 1.25, 1.0, -1.25, -1.25, 0),  # clip-higher leaves that token its gradient
    ("clip", {}, 0.5, 1.0, -0.5, -0.5, 0),  # the lower bound does not hold back a positive advantage
    ("clip", {}, 0.5, -1.0, 0.8, 0.0, 1),  # clipped below at 1 - 0.2
    ("clip", {}, 1.5, -1.0, 1.5, 1.5, 0),  # the upper bound does not hold back a negative one
    ("clip", {}, 4.0, -1.0, 4.0, 4.0, 0),
    ("clip", {"ratio_cap": 3.0}, 4.0, -1.0, 3.0, 0.0, 1),  # dual clip
    ("clip", {"ratio_cap": 3.0}, 2.0, -1.0, 2.0, 2.0, 0),
    ("clip", {"ratio_cap": 3.0}, 4.0, 1.0, -1.28, 0.0, 1),
    ("cispo", {}, 2.0, 1.0, -2.0 * (np.log(2.0) - 1), -2.0, 0),
    ("cispo", {}, 8.0, 1.0, -5.0 * (np.log(8.0) - 1), -5.0, 1),  # bounded weight, and the gradient is still there
    ("cispo", {}, 8.0, -1.0, 5.0 * (np.log(8.0) - 1), 5.0, 1),
    ("cispo", {"max_ratio": 2.0}, 8.0, 1.0, -2.0 * (np.log(8.0) - 1), -2.0, 1),
    ("sapo", {}, 1.0, 2.0, -4.0, -2.0, 0),  # at ratio 1 the gradient is that of the policy gradient
    ("sapo", {}, 1.0, -2.0, 4.0 / 1.05, 2.0, 0),
    ("dppo", {}, 1.2, 1.0, -1.2, -1.2, 0),
    ("dppo", {}, 2.0, 1.0, 0.0, 0.0, 1),  # 0.74 - 0.37 > 0.2
    ("dppo", {}, 2.0, -1.0, 2.0, 2.0, 0),  # it moved against what the advantage pushes to: not held
    ("dppo", {}, 0.4, -1.0, 0.0, 0.0, 1),  # 0.15 - 0.37 < -0.2
    ("dppo", {"low": 0.5}, 0.4, -1.0, 0.4, 0.4, 0),
    ("dppo", {"high": 0.9}, 2.0, 1.0, -2.0, -2.0, 0),
]


@pytest.mark.parametrize(("name", "options", "ratio", "advantage", "loss", "gradient", "held"), HAND)
def test_by_hand(
    name: str, options: dict, ratio: float, advantage: float, loss: float, gradient: float, held: float
) -> None:
    assert step(make_objective(name, **options), ratio, advantage) == pytest.approx((loss, gradient, held))


def test_what_the_cap_holds_back_is_told_apart() -> None:
    """Of three bad tokens one is beyond the cap, one below the range; a good one beyond the range is not the cap's."""
    batch = one_row([-1.0] * 4, [-1.0, -1.0, -1.0, 1.0], [0.25] * 4)
    scorer = Table(list(np.log([4.0, 0.5, 1.1, 4.0]) - 1.0))
    out = PolicyLoss(scorer, objective=make_objective("clip", ratio_cap=3.0))(batch)
    assert (out["clip_fraction"].item(), out["cap_fraction"].item()) == pytest.approx((0.75, 0.25))
    assert PolicyLoss(scorer)(batch)["cap_fraction"].item() == 0.0


def test_dppo_compares_with_the_behaviour_whatever_the_trainer_started_from() -> None:
    batch = one_row([-1.0], [1.0], proximal_logprobs=[-3.0])
    scorer = Table([-0.9])
    out = PolicyLoss(scorer, objective=make_objective("dppo"))(batch)
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(-np.exp(0.1))
    assert scorer.logprobs.grad.item() == pytest.approx(-np.exp(0.1))


def oracle_two_sided(r: float, a: float, delta: float) -> float:
    """INTELLECT-2's formula as TRL writes it: the ratio of the unclipped branch is bounded by delta."""
    return -min(min(r, delta) * a, float(np.clip(r, 0.8, 1.28)) * a)


def oracle_dual_clip(r: float, a: float, c: float) -> float:
    """1912.09729: for negative advantages the objective is bounded below by c times the advantage."""
    inner = min(r * a, float(np.clip(r, 0.8, 1.28)) * a)
    return -(max(inner, c * a) if a < 0 else inner)


@settings(deadline=None)
@given(ratio=st.floats(1e-3, 50), advantage=st.floats(-3, 3), cap=st.floats(1.29, 10))
def test_dual_clip_and_two_sided_clip_are_one_function(ratio: float, advantage: float, cap: float) -> None:
    ours = step(make_objective("clip", ratio_cap=cap), ratio, advantage)[0]
    assert ours == pytest.approx(oracle_dual_clip(ratio, advantage, cap), rel=1e-9, abs=1e-12)
    assert ours == pytest.approx(oracle_two_sided(ratio, advantage, cap), rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(ratio=st.floats(1e-3, 50), advantage=st.floats(-3, 3), tau=st.floats(0.2, 4))
def test_sapo_is_its_formula(ratio: float, advantage: float, tau: float) -> None:
    ours = step(make_objective("sapo", tau_positive=tau, tau_negative=2 * tau), ratio, advantage)[0]
    t = tau if advantage > 0 else 2 * tau
    assert ours == pytest.approx(-4 / t / (1 + np.exp(-t * (ratio - 1))) * advantage, rel=1e-9, abs=1e-12)


def tokens(logprobs: torch.Tensor, proximal: torch.Tensor, sequence: list[int], **extra: object) -> TrainedTokens:
    values = {"behaviour": proximal, "advantages": torch.ones_like(proximal)} | extra
    return TrainedTokens(logprobs=logprobs, proximal=proximal, sequence=torch.tensor(sequence), **values)


def gradient_by_difference(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    columns = []
    for k in range(len(at)):
        shift = torch.zeros_like(at)
        shift[k] = 1e-6
        columns.append((function(at + shift) - function(at - shift)) / 2e-6)
    return torch.stack(columns)


def test_gspo_is_the_clipped_ratio_of_the_sequence() -> None:
    """Against the formula for each sequence, value and gradient by finite difference, in range and out of it."""
    sequence, advantages = [0, 0, 0, 1, 1, 2], torch.tensor([1.0, 1.0, 1.0, -2.0, -2.0, 1.0], dtype=torch.float64)
    proximal = -torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.1, -0.2, 0.13, 0.05, -0.02, 0.9], dtype=torch.float64)
    index = torch.tensor(sequence)
    weights = 1 / (3 * torch.bincount(index).double()[index])

    def ours(logprobs: torch.Tensor) -> torch.Tensor:
        terms = make_objective("gspo", low=0.1, high=0.2)(tokens(logprobs, proximal, sequence, advantages=advantages))
        return (terms.loss * weights).sum()

    def oracle(logprobs: torch.Tensor) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for k in range(3):
            ratio = torch.exp((logprobs - proximal)[index == k].sum() / (index == k).sum())
            a = advantages[index == k][0]
            total = total - torch.minimum(ratio * a, ratio.clamp(0.9, 1.2) * a) / 3
        return total

    at = (proximal + shift).requires_grad_()
    value = ours(at)
    value.backward()
    assert value.item() == pytest.approx(oracle(at).item(), rel=1e-12)
    assert torch.allclose(at.grad, gradient_by_difference(oracle, at.detach()), atol=1e-8)
    assert at.grad[5] == 0, "the third sequence is beyond its bound"
    assert (at.grad[:5] != 0).all()


def test_gspo_token_has_the_value_of_gspo_and_its_gradient_for_one_advantage() -> None:
    sequence = [0, 0, 0, 1]
    proximal = torch.tensor([-1.0, -2.0, -0.5, -1.0], dtype=torch.float64)
    results = []
    for name in ("gspo", "gspo_token"):
        at = (proximal + torch.tensor([0.02, -0.03, 0.05, 0.01])).requires_grad_()
        terms = make_objective(name, low=0.1, high=0.2)(tokens(at, proximal, sequence))
        terms.loss.sum().backward()
        results.append((terms.loss.detach(), at.grad))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1])


def test_gspo_token_follows_the_advantage_of_each_token() -> None:
    proximal = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    at = proximal.clone().requires_grad_()
    advantages = torch.tensor([3.0, -1.0], dtype=torch.float64)
    make_objective("gspo_token")(tokens(at, proximal, [0, 0], advantages=advantages)).loss.sum().backward()
    assert at.grad.tolist() == pytest.approx([-3.0, 1.0])


def test_sequences_keep_their_ratios_apart() -> None:
    """One sequence far off must not move the ratio of another."""
    proximal = torch.zeros(4, dtype=torch.float64) - 1
    near = tokens(proximal.clone(), proximal, [0, 0, 1, 1])
    far = tokens(proximal + torch.tensor([0.0, 0.0, 5.0, 5.0]), proximal, [0, 0, 1, 1])
    gspo = make_objective("gspo")
    assert torch.equal(gspo(near).loss[:2], gspo(far).loss[:2])


def test_a_ratio_beyond_float_range_is_no_nan() -> None:
    """inf * 0 would be: an advantage of zero with a log-ratio of 800, in float32."""
    for name in OBJECTIVES:
        logprobs = torch.tensor([-1.0, -900.0], requires_grad=True)
        proximal = torch.tensor([-900.0, -1.0])
        selected = torch.tensor([False, True])
        given = tokens(logprobs, proximal, [0, 0], advantages=torch.zeros(2), selected=selected)
        loss = make_objective(name)(given).loss.sum()
        loss.backward()
        assert loss.isfinite() and logprobs.grad.isfinite().all(), name


KNOBS = [
    ("clip", {"low": 0.5}),
    ("clip", {"high": 0.9}),
    ("clip", {"ratio_cap": 1.6}),
    ("gspo", {"low": 0.5}),
    ("gspo", {"high": 0.9}),
    ("gspo_token", {"high": 0.9}),
    ("cispo", {"max_ratio": 1.1}),
    ("sapo", {"tau_positive": 2.0}),
    ("sapo", {"tau_negative": 2.0}),
    ("dppo", {"low": 0.01}),
    ("dppo", {"high": 0.9}),
    ("clip_cov", {"low": 0.5}),
    ("clip_cov", {"high": 0.9}),
    ("kl_cov", {"coef": 3.0}),
]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_knob_changes_the_loss(name: str, knob: dict) -> None:
    ratios = np.array([1.7, 0.6, 1.2, 0.7, 1.8])
    batch = one_row(
        [-1.0] * 5, [1.0, 1.0, -1.0, -1.0, -1.0], sequences=[0, 1, 2, 3, 4], selected=[False, True, False, False, False]
    )
    scorer = Table(list(np.log(ratios) - 1.0))
    plain = PolicyLoss(scorer, objective=make_objective(name))(batch)["loss_objective"].item()
    turned = PolicyLoss(scorer, objective=make_objective(name, **knob))(batch)["loss_objective"].item()
    assert abs(plain - turned) > 1e-3


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_names_its_source(name: str) -> None:
    kind, _ = OBJECTIVES[name]
    assert re.search(r"\b\d{4}\.\d{5}\)", kind.__doc__ or ""), name


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="no objective 'cipso'; did you mean 'cispo'"):
        make_objective("cipso")
    with pytest.raises(UsageError, match="'cispo' has no option 'max_ratios'; did you mean 'max_ratio'"):
        make_objective("cispo", max_ratios=3.0)
    with pytest.raises(UsageError, match="'clip' has no option 'level'"):
        make_objective("clip", level="sequence")
    for name, option in [
        ("clip", {"low": 0.0}),
        ("clip", {"high": -0.1}),
        ("clip", {"ratio_cap": 1.2}),
        ("cispo", {"max_ratio": 0.5}),
        ("sapo", {"tau_positive": 0.0}),
        ("dppo", {"high": 2.0}),
        ("clip_cov", {"low": 0.0}),
        ("kl_cov", {"coef": -1.0}),
    ]:
        with pytest.raises(UsageError, match=f"{next(iter(option))}="):
            make_objective(name, **option)


def test_a_sequence_ratio_is_not_averaged_over_tokens() -> None:
    for name in ("gspo", "gspo_token"):
        check_aggregation(make_objective(name), "sequence_mean")
        with pytest.raises(UsageError, match="set aggregation=sequence_mean"):
            check_aggregation(make_objective(name), "token_mean")
    check_aggregation(make_objective("clip"), "token_mean")


def sample(advantage: float, logprobs: list[float], order: int) -> Sample:
    row = np.array([NAN, *logprobs], dtype=np.float32)
    return Sample(
        token_ids=np.zeros(len(row), dtype=np.int64),
        trained=np.isfinite(row),
        behaviour_logprobs=row,
        advantage=advantage,
        order=order,
    )


def test_kl_cov_takes_the_tokens_of_the_highest_covariance() -> None:
    """Good and likely, or bad and unlikely; what is not trained is not even looked at."""
    samples = [sample(1.0, [-0.1, NAN, -3.0], 0), sample(-1.0, [-0.1, NAN, -4.0], 1)]
    one = select_covariant(samples, share=0.25)
    assert [s.selected.tolist() for s in one] == [[False] * 4, [False, False, False, True]]
    two = select_covariant(samples, share=0.5)
    assert [s.selected.tolist() for s in two] == [[False, True, False, False], [False, False, False, True]]
    proximal = [NAN, -0.1, 1e9, -9.0]
    other = [Sample(**{**vars(s), "proximal_logprobs": np.array(proximal, dtype=np.float32)}) for s in samples]
    assert select_covariant(other, share=0.25)[0].selected.tolist() == [False, True, False, False]


def test_covariance_is_about_the_mean_advantage() -> None:
    """All good, one less so: what stands out is the least good token that is unlikely, not the best that is likely."""
    samples = [sample(10.0, [-1.0], 0), sample(10.0, [-1.1], 1), sample(1.0, [-5.0], 2)]
    (chosen,) = [k for k, s in enumerate(select_covariant(samples, share=0.3)) if s.selected.any()]
    assert chosen == 2


def test_samples_without_an_advantage_are_no_part_of_the_covariance() -> None:
    samples = [sample(10.0, [-1.0], 0), sample(10.0, [-1.1], 1), sample(1.0, [-5.0], 2)]
    idle = [sample(0.0, [-30.0], 3), sample(0.0, [-40.0], 4)]
    picked = [s.selected.any() for s in select_covariant([*samples, *idle], share=0.3)]
    assert picked == [False, False, True, False, False], "as without them; -30 and -40 would stand out most"


def test_clip_cov_draws_from_its_band() -> None:
    samples = [sample(1.0, [-0.1, -3.0, -1.5], 0), sample(-1.0, [-0.1, -4.0, -1.6], 1)]
    picks = set()
    for seed in range(30):
        marked = select_covariant(samples, share=0.01, band=(1.2, 1.8), seed=seed)
        (found,) = [(k, t) for k, s in enumerate(marked) for t in np.flatnonzero(s.selected)]
        picks.add(found)
    # Covariances: mean log p -1.717, so 1.62, -1.28, 0.22 and -1.62, 2.28, -0.12: one lies in the band.
    assert picks == {(0, 1)}
    drawn = {tuple(select_covariant(samples, share=0.01, band=(-9, 9), seed=s)[0].selected) for s in range(30)}
    assert len(drawn) > 2, "the draw follows the seed"
    assert not any(s.selected.any() for s in select_covariant(samples, band=(50, 60)))


def test_selected_tokens_have_no_gradient_in_clip_cov_and_a_penalty_in_kl_cov() -> None:
    batch = one_row([-1.0, -1.0], [1.0, 1.0], selected=[True, False])
    scorer = Table([-0.9, -0.9])
    PolicyLoss(scorer, objective=make_objective("clip_cov"))(batch)["loss_objective"].backward()
    assert scorer.logprobs.grad.tolist() == pytest.approx([0.0, -np.exp(0.1)])
    scorer = Table([-0.9, -0.9])
    out = PolicyLoss(scorer, objective=make_objective("kl_cov", coef=0.5))(batch)
    out["loss_objective"].backward()
    assert scorer.logprobs.grad.tolist() == pytest.approx([0.5 - np.exp(0.1), -np.exp(0.1)])
    assert out["loss_objective"].item() == pytest.approx(0.5 * 0.1 - 2 * np.exp(0.1))
    with pytest.raises(UsageError, match="the batch has no 'selected'"):
        PolicyLoss(scorer, objective=make_objective("kl_cov"))(one_row([-1.0], [1.0]))
