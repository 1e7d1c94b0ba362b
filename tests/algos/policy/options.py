"""Every option on two ranks, which ``test_grid`` starts, against one process that has none of it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM

from agents.loading import load_model
from algos.batch import Sample, rank_batches, weighted
from algos.isolation import check_scorer
from algos.per_token import per_token
from algos.policy.config import LoraConfig, ParallelConfig, PolicyOptions
from algos.policy.model import build_critic, build_policy, clip_gradients, place_critic, prepare, trainable
from algos.policy.reference import make_reference
from algos.policy.sharding import fill_shards
from algos.policy.world import World
from algos.scorer import Scorer
from algos.sync.export import load_weights, named_weights
from algos.value import Critic, ValueLoss
from tests.algos.loss_tools import VOCAB
from tests.algos.policy.steps import alone, gathered, model_of, step_samples, together, worst

VARIANTS = {
    "tied": ({"tie_word_embeddings": True}, {}),
    "one key head for two ranks": ({"num_key_value_heads": 1}, {}),
    "recomputed": ({}, {"gradient_checkpointing": True}),
    "offloaded": ({}, {"parallel": {"offload": True}}),
    "gathered once": ({}, {"parallel": {"reshard": False}}),
    "sequences alone, recomputed": ({}, {"attention": "varlen", "gradient_checkpointing": True}),
    "tied, recomputed, offloaded": (
        {"tie_word_embeddings": True},
        {"gradient_checkpointing": True, "parallel": {"offload": True}},
    ),
}
LORA = LoraConfig(r=4, alpha=8, dropout=0.1)


def every_option(path: str) -> None:
    """Runs on both ranks.

    Args:
        path: checkpoint folder of the tied model.
    """
    for sequence in (1, 2):
        world = World.join(sequence_parallel=sequence)
        parallel = ParallelConfig(sequence=sequence)
        options_keep_gradients(world)
        another_architecture(world)
        fewer_samples_than_ranks(world)
        scoring_is_shared(world)
        adapters(world, PolicyOptions(lora=LORA, parallel=parallel))
        half_precision(world, PolicyOptions(compute_dtype="bfloat16", parallel=parallel))
        critics(world, PolicyOptions(parallel=parallel), path)
        steps_and_reference(world, PolicyOptions(parallel=parallel), path)


def options_keep_gradients(world: World) -> None:
    samples = step_samples()
    for name, (shape, fields) in VARIANTS.items():
        parallel = {"sequence": world.num_sequence_ranks, **fields.get("parallel", {})}
        options = PolicyOptions(**{**fields, "parallel": parallel})
        model = prepare(model_of(double=True, **shape), options, world)
        check_scorer(model, layout="packed")
        expected_loss, expected = alone(model_of(double=True, **shape), samples)
        loss, gradients = together(model, samples, world, layout="packed")
        assert worst(gradients, expected) <= 1e-6, name
        assert loss == pytest.approx(expected_loss, rel=1e-6), name
        assert all(p.dtype == torch.float64 for p in model.parameters()), name


def another_architecture(world: World) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": VOCAB}
    torch.manual_seed(5)
    plain = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=4)).double().eval()
    samples = step_samples()
    options = PolicyOptions(parallel=ParallelConfig(sequence=world.num_sequence_ranks))
    model = prepare(copy.deepcopy(plain), options, world)
    _, expected = alone(plain, samples)
    assert worst(together(model, samples, world, layout="packed")[1], expected) <= 1e-6


def fewer_samples_than_ranks(world: World) -> None:
    """A rank without samples runs a dummy that weighs nothing; nobody waits."""
    options = PolicyOptions(parallel=ParallelConfig(sequence=world.num_sequence_ranks))
    _, expected = alone(model_of(double=True), step_samples(1))
    model = prepare(model_of(double=True), options, world)
    assert worst(together(model, step_samples(1), world)[1], expected) <= 1e-6


def scoring_is_shared(world: World) -> None:
    """Each data rank scores its share; ranks with less to do wait for nobody."""
    plain = model_of(double=True)
    options = PolicyOptions(parallel=ParallelConfig(sequence=world.num_sequence_ranks))
    scorer = Scorer(prepare(copy.deepcopy(plain), options, world))
    for num in (9, 3, 1, 0):
        samples = step_samples(num)
        scored = per_token(scorer, samples, max_tokens=30, world=world)
        expected = per_token(Scorer(plain), samples, max_tokens=1000)
        assert len(scored) == num and all(a.shape == b.shape for a, b in zip(scored, expected, strict=True))
        assert num == 0 or gap(scored, expected) <= 1e-6


def adapters(world: World, options: PolicyOptions) -> None:
    samples = step_samples()
    plain = model_of(double=True)
    single = moved(prepare(copy.deepcopy(plain), options.model_copy(update={"parallel": ParallelConfig()}), World()))
    model = prepare(copy.deepcopy(plain), options, world)
    load_adapters(model, single)
    reference = make_reference(model, "never read", options, world, like=Scorer(model))
    without = per_token(reference, samples, max_tokens=100)
    assert gap(without, per_token(Scorer(plain), samples, max_tokens=100)) <= 1e-9
    scored = per_token(Scorer(model), samples, max_tokens=100)
    assert gap(scored, without) > 1e-3, "the adapters changed nothing"
    gradients = together(model, samples, world)[1]
    expected = together(single, samples, World())[1]
    assert gradients and all(".lora_" in name for name in gradients)
    assert worst(gradients, expected) <= 1e-6
    merged = model_of(double=True)
    load_weights(merged, named_weights(model))
    assert gap(scored, per_token(Scorer(merged), samples, max_tokens=100)) <= 1e-6  # merged in float32


def half_precision(world: World, options: PolicyOptions) -> None:
    """Close to float32; the masters and their gradients stay float32."""
    samples = step_samples()
    model = prepare(model_of(), options, world)
    scored = per_token(Scorer(model), samples, max_tokens=100)
    assert all(p.dtype == torch.float32 for p in model.parameters()), "a cast copy was left behind"
    exact = per_token(Scorer(model_of()), samples, max_tokens=100)
    assert 1e-5 < gap(scored, exact) < 0.3
    gradients = together(model, samples, world)[1]
    expected = alone(model_of(), samples)[1]
    assert {g.dtype for g in gradients.values()} == {torch.float32}
    ours, theirs = (torch.cat([g[n].flatten() for n in sorted(g)]) for g in (gradients, expected))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99


def critics(world: World, options: PolicyOptions, path: str) -> None:
    samples = step_samples()
    plain = load_model(path)
    for shared in (False, True):
        expected_critic = Critic(plain, shared=shared)
        if shared:
            policy = build_policy(path, options, world)
            critic = place_critic(Critic(policy, shared=True), options, world)
        else:
            critic = build_critic(path, options, world)
        assert gap(per_token(critic, samples, max_tokens=100), [np.zeros(len(s)) for s in samples]) == 0
        for head in (critic.head, expected_critic.head):
            nn.init.constant_(head.weight, 0.5)
        values = per_token(critic, samples, max_tokens=100)
        assert gap(values, per_token(expected_critic, samples, max_tokens=100)) <= 1e-5
        critic.zero_grad()
        expected_critic.zero_grad()
        value_gradients(expected_critic, samples, World())
        value_gradients(critic, samples, world)
        assert worst(gathered(critic), gathered(expected_critic)) <= 1e-4


def value_gradients(critic: Critic, samples: list[Sample], world: World) -> None:
    loss, share = ValueLoss(critic), weighted(samples, num_ranks=world.size)
    for batch in rank_batches(share, rank=world.data_rank, num_ranks=world.num_data_ranks, max_tokens=100):
        loss(batch)["loss_objective"].backward()


def steps_and_reference(world: World, options: PolicyOptions, path: str) -> None:
    """A checkpoint read by rank 0, trained for two steps: the weights of one process; a reference that follows."""
    samples = step_samples()
    model, plain = build_policy(path, options, world), load_model(path).eval()
    reference = make_reference(model, path, options, world, like=Scorer(model))
    start = per_token(reference, samples, max_tokens=100)
    assert gap(start, per_token(Scorer(plain), samples, max_tokens=100)) <= 1e-5
    optimizers = [torch.optim.AdamW(trainable(m), lr=1e-2, eps=1e-3) for m in (model, plain)]
    for _ in range(2):
        norms = []
        for trained, ranks, optimizer in zip((model, plain), (world, World()), optimizers, strict=True):
            together(trained, samples, ranks)
            norms.append(clip_gradients(trainable(trained), 0.5))
            optimizer.step()
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    now = per_token(Scorer(model), samples, max_tokens=100)
    assert gap(now, per_token(Scorer(plain), samples, max_tokens=100)) <= 1e-3
    assert gap(now, start) > 0.1
    assert gap(per_token(reference, samples, max_tokens=100), start) == 0
    assert not any(p.requires_grad for p in reference.parameters())
    reference.refresh()
    assert gap(per_token(reference, samples, max_tokens=100), now) == 0


def load_adapters(model: nn.Module, single: nn.Module) -> None:
    """The single process's adapters on the ranks; through the model's own way of filling shards."""
    mesh = next(p.device_mesh for p in model.parameters() if isinstance(p, DTensor))
    fill_shards(model, single if torch.distributed.get_rank() == 0 else None, mesh)


def moved(model: nn.Module) -> nn.Module:
    """With adapters that do something: peft starts half of them at zero."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def gap(a: list, b: list) -> float:
    """Largest difference at trained tokens."""
    return max(float(np.nanmax(np.abs(x - y))) for x, y in zip(a, b, strict=True))
