"""What a configuration asks for, in the terms of a plan: the same for cold start and reinforcement learning."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from transformers import PreTrainedConfig

from agents.loading import check_context
from algos.config import ModelConfig, SftConfig, TrainConfig
from algos.plan.config import ClusterConfig
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
        score_tokens: of one without a backward pass, at most; 0 where nothing is scored before an update.
        head_rows: tokens of a tile of the LM head.
        head_columns: vocabulary entries of a tile.
        restricted: the head sorts logits, for top-p or top-k.
        engine: ``shared``: an embedded engine reads the trainer's tensors; ``copy``: it has its own, on the first GPU;
            ``elsewhere``: servers; ``None``: nobody samples.
        kept_tokens: whose keys and values an embedded engine keeps between two turns, at most.
        sampled_tokens: whose keys and values it holds of episodes that are being sampled, at most.
        async_save: checkpoints are written from a copy in the memory of the CPU.
    """

    model: ModelConfig
    cluster: ClusterConfig
    shape: Shape
    policy: Weights
    critic: Weights | None = None
    reference: bool = False
    tokens: int
    score_tokens: int = 0
    head_rows: int = 256
    head_columns: int = 4096
    restricted: bool = False
    engine: Literal["shared", "copy", "elsewhere"] | None = None
    kept_tokens: int = 0
    sampled_tokens: int = 0
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
    job = Job(
        model=config.model,
        cluster=config.cluster,
        shape=shape,
        policy=policy,
        tokens=longest,
        async_save=config.async_save,
    )
    if isinstance(config, SftConfig):
        return _with_embedded(_cold_start(job, config), config, slots=0)
    job = _learning(job, config)
    if config.rollout.replay is not None:
        return job
    if config.agent.name != "embedded":
        return replace(job, engine="elsewhere")
    return _with_embedded(job, config, slots=config.rollout.num_slots or config.algo.tickets_per_step)


def _cold_start(job: Job, config: SftConfig) -> Job:
    share = config.pass_tokens if config.batch_traces else math.ceil(config.batch_tokens / job.data_ranks)
    tokens = min(config.micro_batch_tokens or share, share)
    return replace(job, tokens=max(tokens, job.tokens), head_rows=config.head_rows, head_columns=config.head_columns)


def _learning(job: Job, config: TrainConfig) -> Job:
    algo, sampling, path = config.algo, config.rollout.sampling, config.model.path
    assert path is not None, "job_of() sees to it"
    own_critic = algo.needs_critic and not algo.critic.shared
    restricted = sampling.top_p < 1 or sampling.top_k > 0
    scores = algo.needs_critic or algo.needs_proximal or algo.kl.coef > 0 or restricted
    return replace(
        job,
        critic=weights_of(path, config.model.lora, critic=True) if own_critic else None,
        reference=algo.kl.coef > 0 and config.model.lora is None,
        tokens=max(algo.micro_batch_tokens, job.tokens),
        score_tokens=max(algo.score_tokens or algo.micro_batch_tokens, job.tokens) if scores else 0,
        head_rows=algo.head_rows,
        head_columns=algo.head_columns,
        restricted=restricted,
    )


def _with_embedded(job: Job, config: TrainConfig | SftConfig, *, slots: int) -> Job:
    """With an engine in the first rank's process, which evaluates too."""
    asked = min(config.eval.num_slots, config.eval.samples * (config.eval.problems.size or config.eval.num_slots))
    shared = not job.sharded and config.model.lora is None  # as algos.players decides it
    return replace(
        job,
        engine="shared" if shared else "copy",
        kept_tokens=CACHE_TOKENS,
        sampled_tokens=min(MAX_ROWS, max(slots, asked)) * config.env.max_context_tokens,
    )


def _checked(config: PreTrainedConfig, model: ModelConfig, cluster: ClusterConfig, env: EnvConfig) -> Shape:
    check_grid(cluster.gpus, model.parallel.sequence)
    check_heads(config, model.parallel.sequence)
    check_context(config, env)
    return Shape.of(config)
