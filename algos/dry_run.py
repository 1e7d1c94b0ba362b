"""``dry_run=true``: everything of a training that can be tried without weights and without GPUs.

Contract: nothing is written and no server is asked. What is tried is the real thing where it can be: the real
configuration checks, the real problems or traces through the real tokenizer and the limits, and FSDP2's real
``fully_shard`` on torch's meta device, as the first rank of a process group that only pretends to have the others
(``cluster.gpus``). The bytes of the shards are those of the resulting DTensors and must equal the plan's. Then one
full micro-batch goes through the backbone and back, on shapes alone, and every allocation is added up: the plan's
activations are compared with that.

Not tried: collectives, kernels, the LM head (autocast knows no meta device), attention split over sequence ranks (the
pass runs on the tokens of one rank), whether SGLang servers are there, and time.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agents.console import make_console
from agents.loading import load_config
from algos.batch import Sample
from algos.config import SftConfig, TrainConfig
from algos.isolation import check_layout
from algos.plan.command import show
from algos.plan.job import Job, job_of
from algos.plan.memory import GIB, memory
from algos.policy.model import dressed, lay_out, trainable
from algos.policy.parts import causal_lm
from algos.policy.world import World
from algos.scorer import read_states
from algos.value import Critic
from retool_env.config import EnvConfig, ProblemsConfig
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer

__all__ = ["PeakMemory", "ShardBytes", "activation_bytes", "dry_run", "shard_bytes"]

LOOKED_AT = 256
ATTENTION = "retool_shapes"


def dry_run(config: TrainConfig | SftConfig, samples: Callable[[EnvConfig], Iterable[Sample]] | None = None) -> Path:
    """Try it and print what came out; returns the folder that a real run would have written.

    Args:
        samples: of a cold start.

    Raises:
        UsageError: something does not fit together, or this process is one of several.
    """
    if config.model.path is None:
        raise UsageError("model.path is not set; a dry run needs the model's config.json and tokenizer, no weights")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or dist.is_initialized():
        raise UsageError("dry_run=true pretends to be one of many ranks: start it once, without torchrun")
    out, job = make_console(), job_of(config)
    env = config.env.model_copy(update={"tokenizer": config.model.path})
    if samples is not None:
        out.print(_about_samples(list(samples(env))))
    elif isinstance(config, TrainConfig) and config.rollout.replay is None:
        for name, problems in (("problems", config.problems), ("evaluation", config.eval.problems)):
            out.print(f"{name}: {_about_problems(problems, env)}")
    _check_layout(config)
    _compare(config, job, out)
    show(config, out)
    return Path(config.out)


def _about_problems(problems: ProblemsConfig, env: EnvConfig) -> str:
    source = open_source(**problems.model_dump())
    dialect = make_dialect(env.dialect, instructions=env.instructions)
    given: dict[str, Any] = {"dialect": dialect, "tokenizer": load_tokenizer(env.tokenizer)}
    given |= {"limits": env.episode_limits, "tools": tool_specs(env)}
    few = range(LOOKED_AT if source.size is None else min(LOOKED_AT, source.size))
    lengths = [len(Episode(source.problem(k), **given).token_ids) for k in few]
    total = "endless" if source.size is None else f"{source.size:,}"
    name = source.name if problems.path is None else Path(problems.path).name
    return f"{total} of {name}; prompts of the first {len(lengths)} have {_range(lengths)} tokens"


def _about_samples(samples: Sequence[Sample]) -> str:
    trained = sum(sample.num_trained for sample in samples)
    return f"traces: {len(samples):,} of {_range([len(s) for s in samples])} tokens, {trained:,} of them trained"


def _range(numbers: Sequence[int]) -> str:
    return f"{min(numbers):,} to {max(numbers):,}"


def _check_layout(config: TrainConfig | SftConfig) -> None:
    settings = config.algo if isinstance(config, TrainConfig) else config
    assert config.model.path is not None, "dry_run() sees to it"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(config.model.path))
    if config.model.attention is not None:
        model.config._attn_implementation = config.model.attention
    if isinstance(config, SftConfig):
        most = config.pass_tokens
    else:
        most = max(config.algo.micro_batch_tokens, config.algo.score_tokens or 0)
    if settings.layout is not None:
        check_layout(model, layout=settings.layout, max_tokens=most)


def _compare(config: TrainConfig | SftConfig, job: Job, out: Console) -> None:
    with _pretended(job) as world:
        policy = shard_bytes(config, world)
        critic = shard_bytes(config, world, critic=True) if job.critic else None
    _print_shards(out, "policy", policy, 4 * job.policy.shard(job.ranks))
    if critic is not None and job.critic is not None:
        _print_shards(out, "critic", critic, 4 * job.critic.shard(job.ranks))
    measured = activation_bytes(config, tokens=job.rank_tokens)
    planned = sum(item.gpu for item in memory(job).items if item.name in ACTIVATIONS)
    out.print(
        f"one pass of {job.rank_tokens:,} tokens on shapes: activations peak at {measured / GIB:.2f} GiB, "
        f"the plan has {planned / GIB:.2f}"
    )


ACTIVATIONS = ("activations of the layers", "the layer in the backward pass")


def _print_shards(out: Console, name: str, shards: ShardBytes, planned: int) -> None:
    assert shards.largest == planned, f"{name}: shards of {shards.largest} bytes, the plan has {planned}"
    out.print(
        f"{name}: {shards.tensors} tensors in {shards.units} units on {shards.ranks} ranks; "
        f"{shards.largest / GIB:.2f} GiB of float32 on the first, as planned"
    )


class ShardBytes:
    """What the first rank holds of a sharded model.

    Attributes:
        largest: bytes; the first rank has most.
        tensors: how many are sharded.
        units: modules that are gathered as one.
        ranks: that share them.
    """

    def __init__(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import FSDPModule

        held = list(model.parameters())
        assert all(isinstance(p, DTensor) for p in held), "a parameter is left out of the shards"
        local = [p.to_local() for p in held if isinstance(p, DTensor)]
        self.largest = sum(x.numel() * x.element_size() for x in local)
        self.tensors = len(held)
        self.units = sum(isinstance(module, FSDPModule) for module in model.modules())
        self.ranks = dist.get_world_size()


def shard_bytes(config: TrainConfig | SftConfig, world: World, *, critic: bool = False) -> ShardBytes:
    """Shard the policy or the critic of a configuration on the meta device, as :mod:`algos.policy.model` does."""
    assert config.model.path is not None, "dry_run() sees to it"
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(load_config(config.model.path), dtype=torch.float32)
        model = dressed(causal_lm(model), config.model, world)
        if critic:
            model = Critic(model)
    lay_out(model, config.model, world)
    return ShardBytes(model)


@contextmanager
def _pretended(job: Job) -> Iterator[World]:
    """The first of many ranks, of which there are no others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=job.ranks)
    try:
        yield World.join(sequence_parallel=job.model.parallel.sequence, device="cpu")
    finally:
        dist.destroy_process_group()


def activation_bytes(config: TrainConfig | SftConfig, *, tokens: int) -> int:
    """Peak of what the backbone's forward and backward pass allocates for one row of ``tokens``, on the meta device.

    Weights are not counted, and the gradient of a weight only until the next one's.
    """
    assert config.model.path is not None, "dry_run() sees to it"
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _flash_on_shapes)
    options = config.model.model_copy(update={"attention": ATTENTION})
    width = getattr(torch, options.compute_dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(config.model.path), dtype=width)
        backbone = causal_lm(dressed(model, options, World())).base_model.eval()
        ids = torch.zeros((1, tokens), dtype=torch.int64)
        trained = torch.ones((1, tokens), dtype=torch.bool)
    for weight in trainable(backbone):
        weight.register_post_accumulate_grad_hook(_drop_gradient)
    peak = PeakMemory(backbone.parameters())
    with _nonzero_on_shapes(), peak:
        (states,) = read_states(backbone, ids, trained, None, lambda hidden, _: (hidden.sum(-1),))
        states.sum().backward()
    return peak.bytes


def _drop_gradient(weight: torch.Tensor) -> None:
    weight.grad = None


def _flash_on_shapes(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **_: object
) -> tuple[torch.Tensor, None]:
    """Flash attention: on the meta device torch would take the one that holds all scores."""
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]
    return out.transpose(1, 2), None


@contextmanager
def _nonzero_on_shapes() -> Iterator[None]:
    """A mask on the meta device selects everything."""
    from torch.fx.experimental import _config

    before = _config.meta_nonzero_assume_all_nonzero
    _config.meta_nonzero_assume_all_nonzero = True
    try:
        yield
    finally:
        _config.meta_nonzero_assume_all_nonzero = before


class PeakMemory(TorchDispatchMode):
    """Adds up what is allocated inside, and takes off what is freed; works on any device, also on meta.

    Args:
        held: tensors that are there already.
    """

    def __init__(self, held: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.bytes: int = 0
        self._now = 0
        self._alive: dict[int, int] = {tensor.untyped_storage()._cdata: 0 for tensor in held}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        self.bytes = max(self.bytes, self._now)
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive[key] = size
        self._now += size
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._alive.pop(key)
