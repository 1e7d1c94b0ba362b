"""Packed sequences without a mask: each of them is what it is alone, in values and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F
from transformers import MistralConfig, MistralForCausalLM

from algos.batch import Layout
from algos.isolation import check_layout, check_scorer
from algos.per_token import per_token
from algos.policy.config import PolicyOptions
from algos.policy.model import prepare
from algos.policy.varlen import _flash, _one_by_one, _Sequences
from algos.policy.world import World
from algos.scorer import Scorer
from retool_env.errors import UsageError
from tests.algos.policy.options import gap
from tests.algos.policy.steps import alone, model_of, step_samples, together, worst

OPTIONS = PolicyOptions(attention="varlen")
IDS = torch.arange(1, 6)[None]


@pytest.fixture
def world() -> Iterator[World]:
    world = World.join()
    yield world
    world.leave()


def sequences(*lengths: int) -> _Sequences:
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
    return _Sequences(lengths=lengths, offsets=offsets)


@pytest.mark.parametrize("layout", ["sorted", "packed"])
@pytest.mark.parametrize("double", [True, False])
def test_loss_and_gradients_are_those_of_the_sequences_alone(double: bool, layout: Layout, world: World) -> None:
    tolerance = 1e-6 if double else 1e-4
    expected_loss, expected = alone(model_of(double=double), step_samples())
    model = prepare(model_of(double=double), OPTIONS, world)
    for accumulation in (1, 3):
        loss, gradients = together(model, step_samples(), world, accumulation=accumulation, layout=layout)
        assert worst(gradients, expected) <= tolerance
        assert loss == pytest.approx(expected_loss, rel=tolerance)


def test_a_row_of_any_length_may_be_packed_and_the_start_up_check_agrees(world: World) -> None:
    model = prepare(model_of(), OPTIONS, world)
    check_layout(model, layout="packed", max_tokens=10**6)
    check_scorer(model, layout="packed")


def test_another_batch_is_not_cut_like_the_last_one(world: World) -> None:
    model = prepare(model_of(double=True), OPTIONS, world)
    plain = per_token(Scorer(model_of(double=True)), step_samples(), max_tokens=1)
    for budget in (400, 60, 400, 1):
        scored = per_token(Scorer(model), step_samples(), max_tokens=budget, layout="packed")
        assert gap(scored, plain) <= 1e-9


def test_what_it_cannot_do_is_refused(world: World) -> None:
    model = prepare(model_of(), OPTIONS, world)
    with pytest.raises(UsageError, match=r"layout=shared needs 'sdpa' attention.*'varlen'"):
        check_layout(model, layout="shared", max_tokens=100)
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    with pytest.raises(UsageError, match=r"varlen reads no KV cache.*attention=sdpa"):
        model(input_ids=IDS, past_key_values=cache)
    windowed = MistralForCausalLM(
        MistralConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=4,
        )
    )
    with pytest.raises(UsageError, match="varlen knows no sliding windows"):
        check_scorer(prepare(windowed, OPTIONS, world), layout="packed")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_of_the_gpu_agrees_with_one_call_for_each_sequence() -> None:
    torch.manual_seed(0)
    cut = sequences(5, 130, 1, 64)
    shapes = ((200, 8, 64), (200, 2, 64), (200, 2, 64))
    states = [torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes]
    on_gpu = _Sequences(lengths=cut.lengths, offsets=cut.offsets.cuda())
    results = []
    for attend in (_flash, _one_by_one):
        out = attend(*states, on_gpu, dropout=0.0, scaling=None)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), states)])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, atol=2e-2, rtol=2e-2)
