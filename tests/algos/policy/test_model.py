"""One process: adapters, recomputation, compute dtype, offloading, the reference; and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from algos.batch import micro_batches, weighted
from algos.per_token import per_token
from algos.policy.config import LoraConfig, ParallelConfig, PolicyOptions
from algos.policy.model import build_policy, clip_gradients, prepare, trainable
from algos.policy.reference import make_reference
from algos.policy.world import World
from algos.scorer import Scorer
from algos.sync.export import load_weights, named_weights
from retool_env.config import check_config
from retool_env.errors import UsageError
from tests.algos.loss_tools import VOCAB
from tests.algos.policy.options import gap, moved
from tests.algos.policy.steps import alone, gathered, model_of, policy_loss, step_samples, together, worst

IDS = torch.arange(1, 20)[None] % VOCAB


@pytest.fixture
def world() -> Iterator[World]:
    """Sharding over one rank makes a process group; it must not outlive the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = World.join()
    yield world
    world.leave()
    torch.set_num_threads(threads)
    assert not torch.distributed.is_initialized()


def lora(**fields: object) -> PolicyOptions:
    return PolicyOptions(lora=LoraConfig(**{"r": 4, "alpha": 8, **fields}))


def test_only_adapters_are_trained_and_the_rest_stays_to_the_bit(world: World) -> None:
    plain = model_of()
    model = moved(prepare(copy.deepcopy(plain), lora(), world))
    parameters = trainable(model)
    # A pair per linear layer of a block (4 of attention, 3 of the MLP), not of the head.
    assert len(parameters) == 2 * 2 * 7
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)
    before = {name: p.clone() for name, p in model.named_parameters()}
    together(model, step_samples(), world)
    clip_gradients(parameters, 1.0)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (".lora_" not in name), name


def test_adapters_start_as_nothing_and_leave_merged(world: World) -> None:
    plain = model_of()
    model = prepare(copy.deepcopy(plain), lora(), world)
    assert torch.equal(model(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    logits = moved(model)(input_ids=IDS).logits
    assert not torch.allclose(logits, plain(input_ids=IDS).logits, atol=1e-2)
    merged = model_of()
    load_weights(merged, named_weights(model))
    torch.testing.assert_close(merged(input_ids=IDS).logits, logits, atol=1e-4, rtol=0)


def test_dropout_of_adapters_is_only_in_training_mode(world: World) -> None:
    model = moved(prepare(model_of(), lora(dropout=0.5), world))
    assert torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    model.train()
    assert not torch.equal(model(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_the_reference_of_adapters_is_the_model_without_them(world: World) -> None:
    plain, samples = model_of(), step_samples()
    model = moved(prepare(copy.deepcopy(plain), lora(), world))
    scorer = Scorer(model, temperature=0.7)
    reference = make_reference(model, "never read", lora(), world, like=scorer)
    without = per_token(reference, samples, max_tokens=100)
    assert gap(without, per_token(Scorer(plain, temperature=0.7), samples, max_tokens=100)) == 0
    assert gap(without, per_token(scorer, samples, max_tokens=100)) > 1e-3
    assert all(p.requires_grad for name, p in model.named_parameters() if ".lora_" in name), "they were left off"
    assert together(model, samples, world)[1]
    with pytest.raises(UsageError, match=r"refreshed .* model\.lora"):
        reference.refresh()


def test_a_frozen_copy_stays_until_it_is_refreshed(world: World, tmp_path: Path) -> None:
    samples = step_samples()
    model_of().save_pretrained(tmp_path)
    model = build_policy(str(tmp_path), PolicyOptions(), world)
    scorer = Scorer(model)
    reference = make_reference(model, str(tmp_path), PolicyOptions(), world, like=scorer)
    start = per_token(scorer, samples, max_tokens=100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert gap(per_token(reference, samples, max_tokens=100), start) == 0
    reference.refresh()
    now = per_token(scorer, samples, max_tokens=100)
    assert gap(now, start) > 0.1
    assert gap(per_token(reference, samples, max_tokens=100), now) == 0


@pytest.mark.parametrize("options", [PolicyOptions(), lora()])
def test_recomputation_changes_no_gradient_and_happens_in_evaluation_mode(options: PolicyOptions, world: World) -> None:
    gradients, calls = [], []
    for recompute in (False, True):
        model = prepare(model_of(), options.model_copy(update={"gradient_checkpointing": recompute}), world)
        moved(model)
        seen: list[int] = []
        mlp = next(module for module in model.modules() if type(module).__name__ == "Qwen2MLP")
        mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        assert not model.training
        gradients.append(together(model, step_samples(), world)[1])
        calls.append(len(seen))
    assert worst(gradients[1], gradients[0]) <= 1e-6
    assert calls == [1, 2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_compute_dtype_is_the_arithmetic_of_an_engine_with_cast_weights(dtype: str, world: World) -> None:
    samples = step_samples()
    model = prepare(model_of(), PolicyOptions(compute_dtype=dtype), world)
    scored = per_token(Scorer(model), samples, max_tokens=1)
    engine = model_of()
    for parameter in engine.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype))
    assert gap(scored, per_token(Scorer(engine), samples, max_tokens=1)) == 0
    exact = model_of()
    assert 1e-5 < gap(scored, per_token(Scorer(exact), samples, max_tokens=1)) < 0.3
    gradients, expected = together(model, samples, world)[1], alone(exact, samples)[1]
    assert {g.dtype for g in gradients.values()} == {p.dtype for p in model.parameters()} == {torch.float32}
    ours, theirs = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (gradients, expected))
    assert F.cosine_similarity(ours, theirs, dim=0) > 0.99


def test_offloading_is_the_same_training(world: World) -> None:
    samples, losses = step_samples(), []
    for offload in (False, True):
        model = prepare(model_of(), PolicyOptions(parallel=ParallelConfig(offload=offload)), world)
        optimizer = torch.optim.AdamW(trainable(model), lr=1e-2)
        for _ in range(3):
            loss, _ = together(model, samples, world)
            clip_gradients(trainable(model), 1.0)
            optimizer.step()
        losses.append(loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_weights_leave_as_masters_whatever_was_computed_last(world: World) -> None:
    """A forward pass without gradients must not leave its cast copies where the float32 weights are."""
    plain, samples = model_of(), step_samples()
    model = prepare(copy.deepcopy(plain), PolicyOptions(compute_dtype="bfloat16"), world)
    with torch.no_grad():
        model(input_ids=IDS)
    per_token(Scorer(model), samples, max_tokens=100)
    weights = dict(named_weights(model))
    assert all(torch.equal(weights[name], p) for name, p in plain.named_parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
            plain.get_parameter(next(n for n, p in model.named_parameters() if p is parameter)).mul_(1.1)
    expected = prepare(plain, PolicyOptions(compute_dtype="bfloat16"), world)
    later = per_token(Scorer(model), samples, max_tokens=100)
    assert gap(later, per_token(Scorer(expected), samples, max_tokens=100)) == 0


def test_what_cannot_work_is_refused(world: World, tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    for options, message in [
        (PolicyOptions(attention="flash_attentoin"), "model.attention='flash_attentoin'"),
        (lora(targets=("nothing",)), r"model\.lora\.targets=\['nothing'\]"),
    ]:
        with pytest.raises(UsageError, match=message):
            build_policy(str(tmp_path), options, world)
    with pytest.raises(UsageError, match="no checkpoint"):
        build_policy(str(tmp_path / "none"), PolicyOptions(), world)
    with pytest.raises(UsageError, match=r"compute_dtype='float8'"):
        check_config(PolicyOptions, {"compute_dtype": "float8"})
    with pytest.raises(UsageError, match=r"lora\.dropout=1"):
        check_config(PolicyOptions, {"lora": {"dropout": 1}})


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_of_the_head_are_refused(tied: bool, world: World) -> None:
    """The scorer reads the head's own weight, so they would be trained by nothing and change nothing."""
    with pytest.raises(UsageError, match=r"model\.lora\.targets=\['q_proj', 'lm_head'\].*leave it out"):
        prepare(model_of(tie_word_embeddings=tied), lora(targets=("q_proj", "lm_head")), world)


def test_shared_prompts_work_on_a_sharded_model(world: World) -> None:
    names = ("trained", "behaviour_logprobs", "advantage", "proximal_logprobs", "reference_logprobs")
    samples = []
    for sample in step_samples():
        longer = {name: np.concatenate([np.zeros(5), getattr(sample, name)]) for name in names}
        longer["trained"] = longer["trained"].astype(np.bool_)
        ids = np.concatenate([np.arange(5), sample.token_ids])
        samples.append(replace(sample, token_ids=ids, values=None, returns=None, selected=None, **longer))
    model = prepare(model_of(double=True), PolicyOptions(parallel=ParallelConfig(offload=True)), world)
    loss = policy_loss(Scorer(model, share_prompts=True))
    for batch in micro_batches(weighted(samples), max_tokens=90, layout="shared"):
        loss(batch)["loss_objective"].backward()
    assert worst(gathered(model), alone(model_of(double=True), samples)[1]) <= 1e-6
