"""What a configuration asks for, in the terms of a plan: the same for cold start and reinforcement learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedConfig

from agents.loading import check_context
from algos.config import ClusterConfig, ModelConfig, SftConfig, TrainConfig
from algos.plan.shapes import Shape, Weights, model_config, weights_of
from algos.policy.world import check_grid, check_heads
from retool_env.config import EnvConfig

__all__ = ["Job", "job_of"]

CACHE_TOKENS = 65536
MAX_ROWS = 256
"""Both are the embedded engine's defaults (:class:`agents.embedded.EmbeddedAgent`)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training, as far as memory is concerned.

    Attributes:
        model: how it is held.
        cluster: where.
        shape: of the model.
        policy: its weights.
        critic: those of a critic with a backbone of its own.
        reference: a frozen copy of the policy is held.
        tokens: of one forward pass of one data rank, padding included, at most.
        head_rows: tokens of a tile of the LM head.
        head_columns: vocabulary entries of a tile.
        restricted: the head sorts logits, for top-p or top-k.
        engine: ``shared``: an embedded engine reads the trainer's tensors; ``copy``: it has its own, on the first GPU;
            ``elsewhere``: servers; ``None``: nobody samples.
        cache_tokens: whose keys and values an embedded engine holds, at most.
        async_save: checkpoints are written from a copy in the memory of the CPU.
    """

    model: ModelConfig
    cluster: ClusterConfig
    shape: Shape
    policy: Weights
    critic: Weights | None = None
    reference: bool = False
    tokens: int
    head_rows: int = 256
    head_columns: int = 4096
    restricted: bool = False
    engine: Literal["shared", "copy", "elsewhere"] | None = None
    cache_tokens: int = 0
    async_save: bool = False

    @property
    def ranks(self) -> int:
        return self.cluster.gpus

    @property
    def data_ranks(self) -> int:
        return self.ranks // self.model.parallel.sequence

    @property
    def rank_tokens(self) -> int:
        """Of one forward pass on one rank."""
        return math.ceil(self.tokens / self.model.parallel.sequence)

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 holds the model, as :mod:`algos.policy.model` decides it."""
        return self.ranks > 1 or self.model.parallel.offload or self.model.compute_dtype != "float32"

    @property
    def width(self) -> int:
        """Bytes of a number of the compute dtype."""
        return 4 if self.model.compute_dtype == "float32" else 2


def job_of(config: TrainConfig | SftConfig) -> Job:
    """The job of a configuration.

    Raises:
        UsageError: a model that is not known, GPUs that cannot share it, or episodes that it cannot read.
    """
    shape = _checked(model_config(config.model.path), config.model, config.cluster, config.env)
    assert config.model.path is not None, "model_config() sees to it"
    policy = weights_of(config.model.path, config.model.lora)
    longest = config.env.max_context_tokens
    if isinstance(config, SftConfig):
        tokens = max(config.batch_tokens, longest)
        return Job(model=config.model, cluster=config.cluster, shape=shape, policy=policy, tokens=tokens)
    algo, sampling = config.algo, config.rollout.sampling
    own_critic = algo.needs_critic and not algo.critic.shared
    job = Job(
        model=config.model,
        cluster=config.cluster,
        shape=shape,
        policy=policy,
        critic=weights_of(config.model.path, config.model.lora, critic=True) if own_critic else None,
        reference=algo.kl.coef > 0 and config.model.lora is None,
        tokens=max(algo.micro_batch_tokens, longest),
        head_rows=algo.head_rows,
        head_columns=algo.head_columns,
        restricted=sampling.top_p < 1 or sampling.top_k > 0,
        async_save=config.async_save,
    )
    if config.rollout.replay is not None:
        return job
    return _with_engine(job, config)


def _with_engine(job: Job, config: TrainConfig) -> Job:
    if config.agent.name != "embedded":
        return Job(**{**vars(job), "engine": "elsewhere"})
    shared = not job.sharded and config.model.lora is None  # as algos.players decides it
    slots = min(MAX_ROWS, config.rollout.num_slots or config.algo.tickets_per_step)
    held = slots * config.env.max_context_tokens + CACHE_TOKENS
    return Job(**{**vars(job), "engine": "shared" if shared else "copy", "cache_tokens": held})


def _checked(config: PreTrainedConfig, model: ModelConfig, cluster: ClusterConfig, env: EnvConfig) -> Shape:
    check_grid(cluster.gpus, model.parallel.sequence)
    check_heads(config, model.parallel.sequence)
    check_context(config, env)
    return Shape.of(config)
