"""A model ready to be trained: loaded, with adapters, recomputation, split attention and shards as configured.

Weights are float32 masters. With another compute dtype, or with offloading, a single process shards its model too,
over itself: FSDP2 then runs every layer on a cast copy of its weights, which is the arithmetic of an engine that loaded
the cast checkpoint. ``torch.autocast`` keeps the residual stream in float32: more precise than what the engine samples
from, and so further away from it.

With several ranks only rank 0 reads the checkpoint; the others get their shards tensor by tensor.

Left out: optimizer and schedule, which are the trainer's; scaling of float16 gradients; quantised weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from agents.loading import load_model
from algos.policy.adapters import with_adapters
from algos.policy.config import PolicyOptions
from algos.policy.parts import decoder_layers, recompute
from algos.policy.sharding import fill_shards, shard
from algos.policy.ulysses import split_attention
from algos.policy.varlen import register_varlen
from algos.policy.world import World, check_heads
from algos.value import Critic
from retool_env.errors import UsageError

__all__ = [
    "build_critic",
    "build_policy",
    "clip_gradients",
    "dressed",
    "lay_out",
    "place_critic",
    "prepare",
    "trainable",
]

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build_policy(path: str, options: PolicyOptions, world: World) -> nn.Module:
    """The causal language model of a checkpoint folder, in evaluation mode; every rank must call this.

    Returns:
        A transformers model, or the peft model around it.

    Raises:
        UsageError: no checkpoint, or options that do not fit the model.
    """
    config = _config(path, world)
    return _build(lambda: load_model(path), config, lambda model: dressed(model, options, world), options, world)


def build_critic(path: str, options: PolicyOptions, world: World) -> Critic:
    """A critic with a backbone of its own, from a checkpoint folder, as :func:`build_policy` makes a policy."""
    config = _config(path, world)

    def finish(model: PreTrainedModel) -> nn.Module:
        return Critic(dressed(model, options, world))

    critic = _build(lambda: load_model(path), config, finish, options, world)
    assert isinstance(critic, Critic)
    return critic


def place_critic(critic: Critic, options: PolicyOptions, world: World) -> Critic:
    """Lay out the head of a critic that shares the policy's backbone (``Critic(policy, shared=True)``) like it."""
    critic.head.to(world.device)
    if _sharded(options, world):
        shard(critic.head, [], world.shard_mesh(), options.parallel, compute_dtype=None)
    return critic


def prepare(model: PreTrainedModel, options: PolicyOptions, world: World) -> nn.Module:
    """The same as :func:`build_policy` with a model that every rank has already; only rank 0's weights count."""
    check_heads(model.config, world.num_sequence_ranks)
    return _build(lambda: model, model.config, lambda held: dressed(held, options, world), options, world)


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """What an optimizer should hold, each once: adapters only, where there are adapters."""
    found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
    return list(found.values())


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm over all ranks; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _config(path: str, world: World) -> PreTrainedConfig:
    """Of the checkpoint, refused where the ranks cannot share it: before any weight is read."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path!r} is no checkpoint ({' '.join(str(error).split())}); give a model folder") from error
    check_heads(config, world.num_sequence_ranks)
    return config


def _sharded(options: PolicyOptions, world: World) -> bool:
    return world.size > 1 or options.parallel.offload or options.compute_dtype != "float32"


def _build(
    load: Callable[[], PreTrainedModel],
    config: PreTrainedConfig,
    finish: Callable[[PreTrainedModel], nn.Module],
    options: PolicyOptions,
    world: World,
) -> nn.Module:
    """``finish(load())`` on the ranks. ``load`` is called on rank 0; the others only know its ``config``."""
    whole = finish(load()) if world.is_main else None
    if world.size == 1:
        assert whole is not None
        if not options.parallel.offload:
            whole.to(world.device)
        if _sharded(options, world):
            lay_out(whole, options, world)
        return whole.eval()
    dtype = world.from_main(None if whole is None else next(whole.parameters()).dtype)
    with torch.device("meta"):
        model = finish(AutoModelForCausalLM.from_config(config, dtype=dtype))
    mesh = lay_out(model, options, world)
    fill_shards(model, whole, mesh, offload=options.parallel.offload)
    return model.eval()


def lay_out(model: nn.Module, options: PolicyOptions, world: World) -> DeviceMesh:
    """A critic's head is a unit of its own in float32."""
    mesh = world.shard_mesh()
    if isinstance(model, Critic):
        shard(model.head, [], mesh, options.parallel, compute_dtype=None)
    layers = decoder_layers(model.backbone if isinstance(model, Critic) else model)
    shard(model, layers, mesh, options.parallel, compute_dtype=DTYPES[options.compute_dtype])
    return mesh


def dressed(model: PreTrainedModel, options: PolicyOptions, world: World) -> nn.Module:
    """With everything but shards."""
    if options.attention is not None:
        register_varlen()
        try:
            model.set_attn_implementation(options.attention)
        except (ImportError, ValueError) as error:
            raise UsageError(f"model.attention={options.attention!r}: {' '.join(str(error).split())}") from error
    group = world.sequence_group
    if group is not None:
        split_attention(model, group)
    worn = model if options.lora is None else with_adapters(model, options.lora)
    if options.gradient_checkpointing:
        recompute(worn)
    return worn
