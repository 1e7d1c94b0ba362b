"""Weights by hand; layouts hold every token exactly once, within their budget; ranks are balanced and in step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from algos.batch import AGGREGATIONS, Sample, balanced, micro_batches, plan, rank_batches, weighted
from algos.filters import trains
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from tests.algos.loss_tools import make_samples


def sample(num_trained: int, *, group: int = 0, order: int = 0, length: int | None = None, fill: int = 0) -> Sample:
    """The last ``num_trained`` of its tokens are trained; all ids are ``fill``."""
    length = length or num_trained + 1
    return Sample(
        token_ids=np.full(length, fill),
        trained=np.arange(length) >= length - num_trained,
        behaviour_logprobs=np.full(length, -1.0, dtype=np.float32),
        advantage=1.0,
        group=group,
        order=order,
    )


def test_weights_by_hand() -> None:
    """Two samples of group 0 with 1 and 3 trained tokens, one of group 1 with 4; a length limit of 10."""
    samples = [sample(1), sample(3), sample(4, group=1)]
    expected = {
        "token_mean": [1 / 8, 1 / 8, 1 / 8],
        "sequence_mean": [1 / 3, 1 / 9, 1 / 12],
        "sequence_sum": [1 / 30] * 3,
        "prompt_mean": [1 / 8, 1 / 8, 1 / 8],
    }
    expected["prompt_mean"] = [1 / (2 * 4), 1 / (2 * 4), 1 / (2 * 4)]
    for aggregation in AGGREGATIONS:
        weights = [s.weight for s in weighted(samples, aggregation, constant=10)]
        assert weights == pytest.approx(expected[aggregation]), aggregation
        ranks = [s.weight for s in weighted(samples, aggregation, constant=10, num_ranks=4)]
        assert ranks == pytest.approx([4 * w for w in weights]), "averaging over ranks is made up for"
    uneven = weighted([sample(1), sample(3), sample(2, group=1)], "prompt_mean")
    assert [s.weight for s in uneven] == pytest.approx([1 / 8, 1 / 8, 1 / 4])


def test_which_way_the_length_bias_goes() -> None:
    """A short and a long wrong answer: what each is pushed down by in all, and per token."""
    short, long = (weighted([sample(10), sample(1000)], a, constant=1000) for a in ("sequence_mean", "token_mean"))
    assert short[0].weight / short[1].weight == pytest.approx(100), "a token of the long answer hardly counts"
    assert long[0].weight == long[1].weight, "the long answer counts a hundred times as much"
    constant = weighted([sample(10), sample(1000)], "sequence_sum", constant=1000)
    alone = weighted([sample(10), sample(20)], "sequence_sum", constant=1000)
    assert constant[0].weight == alone[0].weight, "no other sample's length matters"
    assert weighted([sample(10), sample(20)])[0].weight != weighted([sample(10), sample(1000)])[0].weight


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="no aggregation 'token_means'; did you mean 'token_mean'"):
        weighted([sample(1)], "token_means")
    with pytest.raises(UsageError, match="sequence_sum needs a constant"):
        weighted([sample(1)], "sequence_sum")


def read_back(batches: list[TensorDict]) -> list[tuple]:
    """Every sequence of the batches: ids, trained, positions, and what is trained on."""
    found = []
    for batch in batches:
        sequence = batch["sequence_ids"]
        assert not batch["trained"][sequence < 0].any()
        assert (batch["weights"][~batch["trained"]] == 0).all()
        for k in range(int(sequence.max()) + 1):
            here = sequence == k
            columns = here.nonzero()[:, 1]
            assert (columns.diff() == 1).all(), "in one piece"
            positions = batch["position_ids"][here] if "position_ids" in batch else columns
            assert positions.tolist() == list(range(int(here.sum())))
            trained = batch["trained"][here]
            values = [batch[name][here][trained].tolist() for name in ("behaviour_logprobs", "advantages", "weights")]
            found.append((tuple(batch["token_ids"][here].tolist()), tuple(trained.tolist()), *map(tuple, values)))
    return sorted(found)


@settings(deadline=None)
@given(
    num=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    max_tokens=st.sampled_from([1, 30, 64, 500]),
    layout=st.sampled_from(["sorted", "packed", "shared"]),
)
def test_every_layout_holds_every_token_once(num: int, seed: int, max_tokens: int, layout: str) -> None:
    samples = weighted(make_samples(num, seed, extras=True))
    batches = micro_batches(samples, max_tokens=max_tokens, layout=layout)
    whole = micro_batches(samples, max_tokens=100_000)
    assert read_back(batches) == read_back(whole)
    assert len(read_back(batches)) == num
    for part, batch in zip(plan(samples, max_tokens=max_tokens, layout=layout), batches, strict=True):
        assert len(part) == 1 or layout == "shared" or batch.numel() <= max_tokens
        assert layout != "packed" or batch.numel() == sum(len(samples[k]) for k in part), "no padding"
    reverse = micro_batches(samples[::-1], max_tokens=max_tokens, layout=layout)
    assert all((a == b).all() for a, b in zip(batches, reverse, strict=True) if not a.isnan().any()), "order-free"


def test_padding_is_where_no_sequence_is_and_not_where_an_id_is() -> None:
    """The id of padding is also that of a token: nothing of it is lost."""
    (batch,) = micro_batches([sample(3, fill=0), sample(1, fill=0, order=1)], max_tokens=100)
    assert batch["trained"].sum() == 4
    assert (batch["sequence_ids"] == -1).sum() == 2
    assert batch["weights"].sum() == 4


def test_what_a_group_has_in_common_is_counted_once() -> None:
    ids = [np.array([*range(50), 60 + k, 61, 62]) for k in range(4)]
    group = [replace(sample(3, length=53, order=k), token_ids=row) for k, row in enumerate(ids)]
    assert len(micro_batches(group, max_tokens=62, layout="shared")) == 1
    assert len(micro_batches(group, max_tokens=61, layout="shared")) == 2
    assert len(micro_batches(group, max_tokens=62)) == 4


@settings(deadline=None)
@given(num=st.integers(1, 20), num_ranks=st.integers(1, 7), seed=st.integers(0, 1000))
def test_ranks_have_equally_many_batches_and_nearly_equal_loads(num: int, num_ranks: int, seed: int) -> None:
    samples = weighted(make_samples(num, seed), num_ranks=num_ranks)
    shares = balanced(samples, num_ranks)
    assert sorted(k for share in shares for k in share) == list(range(num))
    loads = [sum(len(samples[k]) for k in share) for share in shares]
    assert max(loads) <= min(loads) + max(len(s) for s in samples)
    per_rank = [rank_batches(samples, rank=r, num_ranks=num_ranks, max_tokens=40) for r in range(num_ranks)]
    assert len({len(batches) for batches in per_rank}) == 1
    total = sum(float(batch["weights"].sum()) for batches in per_rank for batch in batches)
    assert total == pytest.approx(num_ranks, rel=1e-5), "dummies weigh nothing"
    real = [row for batches in per_rank for row in read_back(batches) if any(row[-1])]
    assert sorted(real) == read_back(micro_batches(samples, max_tokens=40))


def test_a_dummy_has_what_the_others_have() -> None:
    samples = make_samples(1, extras=True)
    (real,), (dummy,) = (rank_batches(samples, rank=rank, num_ranks=2, max_tokens=100) for rank in range(2))
    assert set(real.keys()) == set(dummy.keys())
    assert dummy["trained"].sum() == 1 and dummy["weights"].sum() == 0
    assert all(real[key].dtype == dummy[key].dtype for key in real.keys())  # noqa: SIM118


def test_a_token_that_no_logits_predict_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="no logits predict the first token"):
        micro_batches([replace(sample(1), trained=np.array([True, True]))], max_tokens=10)


def record(outcome: Outcome = Outcome.ANSWERED, *, num_void_turns: int = 0) -> EpisodeRecord:
    return EpisodeRecord(
        problem=Problem(id="p", prompt="?", answer="1"),
        outcome=outcome,
        turns=("a",),
        calls=(),
        verdict=None,
        num_action_tokens=1,
        num_void_turns=num_void_turns,
    )


@pytest.mark.parametrize("outcome", Outcome)
def test_filters(outcome: Outcome) -> None:
    cut = outcome in (Outcome.CONTEXT_FULL, Outcome.TURN_TOO_LONG)
    assert trains(record(outcome, num_void_turns=1))
    assert trains(record(outcome), mask_overlong=True, mask_void=True) is not cut
    assert not trains(record(outcome, num_void_turns=1), mask_void=True)
    assert trains(record(outcome, num_void_turns=1), mask_overlong=True) is not cut


def test_weights_are_exact_enough_in_float32() -> None:
    """A million tokens: the weight of one is far above what float32 loses."""
    (batch,) = micro_batches([replace(sample(4), weight=1e-6)], max_tokens=10)
    assert batch["weights"].dtype == torch.float32
    assert batch["weights"].sum().item() == pytest.approx(4e-6, rel=1e-6)
