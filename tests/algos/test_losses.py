"""The policy loss as a whole: TorchRL's own as an oracle, masks (invariant 3), layouts and cuts (invariant 5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torchrl.modules.distributions import LLMMaskedCategorical
from torchrl.objectives.llm import GRPOLoss

from algos.batch import AGGREGATIONS, Sample, micro_batches, rank_batches, weighted
from algos.correction import Correction
from algos.losses import OBJECTIVES, KlPenalty, PolicyLoss, SftLoss, make_objective
from algos.per_token import per_token
from algos.scorer import Scorer
from tests.algos.loss_tools import NAN, VOCAB, Table, gradients, make_samples, one_row, relative_error, small_model

EVERYTHING = {
    "kl": KlPenalty(coef=0.1),
    "entropy_coef": 0.01,
    "correction": Correction(weight_cap=2.0, sequence_cap=50.0, geometric_band=(0.3, 3.0), off_policy_gap=0.5),
}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_model()


def test_metrics_are_weighted_means_over_trained_tokens() -> None:
    scorer = Table([-1.0, float(np.log(1.5)) - 1.0])
    out = PolicyLoss(scorer)(one_row([-1.0, -1.0], [1.0, 1.0], [0.25, 0.75]))
    assert out["clip_fraction"].item() == pytest.approx(0.75)
    assert out["kl_approx"].item() == pytest.approx(-0.75 * np.log(1.5))
    assert out["entropy"].item() == pytest.approx(0.5)
    assert out["logprob_gap"].item() == pytest.approx(np.log(1.5))
    assert out["logprob_gap_mean"].item() == pytest.approx(0.75 * np.log(1.5))
    assert out["weight"].item() == pytest.approx(1.0)
    assert out["rejected_fraction"].item() == out["kl_reference"].item() == 0.0


@pytest.mark.parametrize("missing", [NAN, float("-inf")])
def test_a_token_without_behaviour_logprob_has_ratio_one(missing: float) -> None:
    scorer = Table([-3.0])
    out = PolicyLoss(scorer)(one_row([missing], [2.0], [1.0]))
    out["loss_objective"].backward()
    assert out["loss_objective"].item() == pytest.approx(-2.0)
    assert scorer.logprobs.grad[0].item() == pytest.approx(-2.0)
    assert out["logprob_gap"].item() == 0.0


def test_a_dummy_and_a_tools_token_have_no_gap_to_the_engine(model: nn.Module) -> None:
    """With the trainer's own log-probabilities beside the engine's: nothing is compared where no engine said a word."""
    (scored,) = per_token(Scorer(model), make_samples(1), max_tokens=100)
    sample = replace(make_samples(1)[0], behaviour_logprobs=scored + 0.25, proximal_logprobs=scored)
    gaps = []
    for rank in range(2):
        (batch,) = rank_batches(weighted([sample], num_ranks=2), rank=rank, num_ranks=2, max_tokens=100)
        out = PolicyLoss(Scorer(model), kl=None)(batch)
        gaps.append(out["logprob_gap"].item())
    assert gaps == [pytest.approx(0.25, abs=1e-5), 0.0]
    moved = one_row([NAN, -1.0], [1.0, 1.0], [0.5, 0.5], proximal_logprobs=[-3.0, -1.0])
    out = PolicyLoss(Table([-1.0, -0.9]))(moved)
    assert out["logprob_gap"].item() == pytest.approx(0.1)
    assert out["logprob_gap_mean"].item() == pytest.approx(0.05)


def test_keys_can_be_renamed() -> None:
    loss = PolicyLoss(Table([-1.0]))
    loss.set_keys(advantages="credit")
    batch = one_row([-1.0], [2.0]).rename_key_("advantages", "credit")
    assert loss(batch)["loss_objective"].item() == pytest.approx(-2.0)


class TorchrlActor(nn.Module):
    """What ``GRPOLoss`` asks of a policy: a distribution over the tokens of the explicit mask."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def get_dist(self, td: TensorDict, **kwargs: object) -> LLMMaskedCategorical:
        shifted = self.model(input_ids=td["tokens", "full"], use_cache=False).logits[:, :-1]
        logits = torch.cat([torch.zeros_like(shifted[:, :1]), shifted], dim=1)  # what predicts a token, at its place
        return LLMMaskedCategorical(logits=logits, mask=td["masks", "all_assistant_mask"])

    _get_rlhf_dist = get_dist


@pytest.mark.parametrize("aggregation", ["token_mean", "prompt_mean"])
def test_equals_torchrls_grpo_loss(model: nn.Module, aggregation: str) -> None:
    """Value and gradient, with an explicit mask that leaves tool spans out, clip-higher, and ratios away from 1."""
    # TorchRL takes every row for a prompt of its own.
    samples = [replace(sample, group=k) for k, sample in enumerate(make_samples(4))]
    (batch,) = micro_batches(weighted(samples, aggregation), max_tokens=10_000)
    ours = PolicyLoss(Scorer(model))(batch)["loss_objective"]
    rows = TensorDict(
        {
            ("tokens", "full"): batch["token_ids"],
            ("masks", "all_assistant_mask"): batch["trained"],
            ("masks", "all_attention_mask"): batch["sequence_ids"] >= 0,
            ("log_probs", "full"): batch["behaviour_logprobs"].double().nan_to_num(0.0),
            "advantage": batch["advantages"].double()[..., None],
        },
        batch_size=len(samples),
    )
    grpo = GRPOLoss(
        TorchrlActor(model),
        clip_epsilon=(0.2, 0.28),
        masking_strategy="rlhf",
        entropy_bonus=False,
        aggregation=aggregation,
    )
    theirs = grpo(rows).loss_objective
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    parameters = list(model.parameters())
    pairs = zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in pairs)


def test_equals_the_loss_written_out_over_full_logits(model: nn.Module) -> None:
    """An oracle that shares no code: all logits at once, log-space clipping, a plain mean over the trained tokens."""
    samples = make_samples(4)
    (batch,) = micro_batches(weighted(samples), max_tokens=10_000)
    ours = PolicyLoss(Scorer(model, chunk=7))(batch)["loss_objective"]
    logprobs = model(input_ids=batch["token_ids"]).logits[:, :-1].double().log_softmax(-1)
    logprobs = logprobs.gather(-1, batch["token_ids"][:, 1:, None])[..., 0]
    mask, advantages = batch["trained"][:, 1:], batch["advantages"][:, 1:].double()
    gap = (logprobs - batch["behaviour_logprobs"][:, 1:].double()).masked_fill(~mask, 0.0)
    clipped = gap.clamp(float(np.log1p(-0.2)), float(np.log1p(0.28)))
    expected = -torch.minimum(gap.exp() * advantages, clipped.exp() * advantages)[mask].mean()
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def spoilt(sample: Sample) -> Sample:
    """Everything that is read per token, absurd where it is not trained."""
    changed = {}
    for name in ("behaviour_logprobs", "proximal_logprobs", "reference_logprobs", "values", "returns", "advantage"):
        changed[name] = np.where(sample.trained, getattr(sample, name), 7.0).astype(np.float32)
    return replace(sample, selected=sample.trained & sample.selected | ~sample.trained, **changed)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_is_masked_changes_no_gradient_and_inputs_do(model: nn.Module, objective: str) -> None:
    """Invariant 3: quantities at untrained positions are nothing; the tokens there are context."""
    samples = weighted(make_samples(4, extras=True), "sequence_mean")
    loss = PolicyLoss(Scorer(model), objective=make_objective(objective), **EVERYTHING)
    plain = gradients(model, loss, samples)
    assert plain.isfinite().all() and plain.abs().max() > 0
    assert torch.equal(gradients(model, loss, [spoilt(sample) for sample in samples]), plain)
    ids = [np.where(sample.trained, sample.token_ids, (sample.token_ids + 1) % VOCAB) for sample in samples]
    other = [replace(sample, token_ids=row) for sample, row in zip(samples, ids, strict=True)]
    assert relative_error(gradients(model, loss, other), plain) > 1e-3


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    objective=st.sampled_from(sorted(OBJECTIVES)),
    aggregation=st.sampled_from(AGGREGATIONS),
    seed=st.integers(0, 1000),
)
def test_gradients_do_not_depend_on_how_a_step_is_cut(
    model: nn.Module, data: st.DataObject, objective: str, aggregation: str, seed: int
) -> None:
    """Invariant 5 in float64: order, budget of micro-batches, layout, ranks with and without dummies."""
    samples = weighted(make_samples(7, seed, longest=20, extras=True), aggregation, constant=30)
    loss = PolicyLoss(Scorer(model), objective=make_objective(objective), **EVERYTHING)
    whole = gradients(model, loss, samples)
    max_tokens = data.draw(st.sampled_from([1, 25, 60, 200]))
    shuffled = data.draw(st.permutations(samples))
    layout = data.draw(st.sampled_from(["sorted", "packed"]))
    split = gradients(model, loss, shuffled, max_tokens=max_tokens, layout=layout)
    assert relative_error(split, whole) <= 1e-6
    num_ranks = data.draw(st.sampled_from([2, 3, 9]))
    assert relative_error(averaged_over_ranks(model, loss, shuffled, aggregation, num_ranks, layout), whole) <= 1e-6


def averaged_over_ranks(
    model: nn.Module, loss: PolicyLoss, samples: list[Sample], aggregation: str, num_ranks: int, layout: str
) -> torch.Tensor:
    """What FSDP makes of it: the mean over ranks, each of which ran equally many micro-batches."""
    samples = weighted(samples, aggregation, constant=30, num_ranks=num_ranks)
    plans = [rank_batches(samples, rank=r, num_ranks=num_ranks, max_tokens=40, layout=layout) for r in range(num_ranks)]
    assert len({len(batches) for batches in plans}) == 1
    model.zero_grad()
    for batches in plans:
        for batch in batches:
            (loss(batch)["loss_objective"] / num_ranks).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_gradients_in_float32_do_not_depend_on_how_a_step_is_cut() -> None:
    model = small_model().float()
    samples = weighted(make_samples(9, extras=True), "prompt_mean")
    loss = PolicyLoss(Scorer(model, chunk=16, vocab_chunk=25, keep=0), **EVERYTHING)
    whole = gradients(model, loss, samples)
    for layout, max_tokens in [("sorted", 40), ("packed", 100)]:
        assert relative_error(gradients(model, loss, samples, max_tokens=max_tokens, layout=layout), whole) <= 1e-4


def test_metrics_do_not_depend_on_the_cut_either(model: nn.Module) -> None:
    samples = weighted(make_samples(7, extras=True), "sequence_sum", constant=30)
    loss = PolicyLoss(Scorer(model), **EVERYTHING)
    means = []
    for max_tokens in (1, 10_000):
        rows = [loss(batch).detach() for batch in micro_batches(samples, max_tokens=max_tokens)]
        total = sum(row["weight"].item() for row in rows)
        means.append([sum(row[key].item() for row in rows) / total for key in loss.out_keys if key != "logprob_gap"])
    assert means[0] == pytest.approx(means[1], rel=1e-6)


def test_a_sample_without_a_trained_token_takes_part_with_nothing(model: nn.Module) -> None:
    """Its micro-batch still runs and can be differentiated: a rank that skipped it would leave the others waiting."""
    samples = make_samples(2)
    empty = replace(samples[0], trained=np.zeros(len(samples[0]), dtype=np.bool_))
    alone = gradients(model, PolicyLoss(Scorer(model)), [empty])
    assert (alone == 0).all()
    with_it = gradients(model, PolicyLoss(Scorer(model)), [empty, samples[1]])
    assert relative_error(with_it, gradients(model, PolicyLoss(Scorer(model)), [samples[1]])) <= 1e-9


def test_sft_is_the_mean_negative_log_likelihood(model: nn.Module) -> None:
    samples = weighted(make_samples(5))
    loss = SftLoss(Scorer(model))
    whole = gradients(model, loss, samples)
    (batch,) = micro_batches(samples, max_tokens=10_000)
    labels = batch["token_ids"].masked_fill(~batch["trained"], -100)
    expected = model(input_ids=batch["token_ids"], labels=labels, use_cache=False).loss  # transformers' own
    assert loss(batch)["loss_objective"].item() == pytest.approx(expected.item(), rel=1e-6)
    model.zero_grad()
    expected.backward()
    assert relative_error(torch.cat([p.grad.flatten() for p in model.parameters()]), whole) < 1e-5
    packed = gradients(model, loss, samples, max_tokens=50, layout="packed")
    assert relative_error(packed, whole) <= 1e-6
