"""What one training step takes and sends, at most: tokens, optimizer steps, bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from algos.config import SftConfig, TrainConfig
from algos.plan.job import Job

__all__ = ["facts"]

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2, None: 4}


def facts(config: TrainConfig | SftConfig, job: Job) -> Iterator[tuple[str, str]]:
    """Name and value."""
    yield "parameters", f"{job.policy.total:,}, trained {job.policy.trained:,}"
    if isinstance(config, SftConfig):
        longest = config.env.max_context_tokens
        total = config.batch_traces * longest if config.batch_traces else max(config.batch_tokens, longest)
        yield "tokens of an optimizer step", f"at most {total:,}"
        yield "forward and backward passes", _passes(total, job)
        yield "traces", f"at most {config.traces.num * config.traces.epochs:,}"
    else:
        yield from _step(config, job)
    critic = job.critic.trained if job.critic else 0
    yield "state of a checkpoint", _size(12 * (job.policy.trained + critic)) + ", and the model in float32 at the end"


def _step(config: TrainConfig, job: Job) -> Iterator[tuple[str, str]]:
    algo, env = config.algo, config.env
    episodes = algo.tickets_per_step
    total = episodes * env.max_context_tokens
    sampled = min(env.max_context_tokens, (env.max_tool_rounds + 1) * env.max_turn_tokens)
    yield "episodes of a step", f"{episodes:,} ({algo.prompts_per_step:,} problems x {algo.group_size})"
    yield "tokens of a step", f"at most {total:,}, of them sampled {episodes * sampled:,}"
    if algo.resample_rounds:
        yield "", f"dynamic sampling may play up to {algo.resample_rounds} times as many more"
    updates = algo.epochs * algo.minibatches
    run = f"{updates * algo.steps:,} in {algo.steps:,} steps"
    run = f"{algo.num_epochs:g} passes over the problems" if algo.num_epochs else run
    yield "optimizer steps of a step", f"{updates}; of the run {run}"
    yield "forward and backward passes", _passes(total * algo.epochs, job)
    if job.engine in ("copy", "elsewhere"):
        copied = config.model.compute_dtype if job.engine == "copy" else config.sync.dtype
        yield "weights sent after a step", f"{_size(WIDTHS[copied] * job.policy.total)} ({copied or 'float32'})"


def _passes(tokens: int, job: Job) -> str:
    each = math.ceil(tokens / (job.data_ranks * job.tokens))
    return f"about {each:,} of {job.tokens:,} tokens on each of {job.data_ranks} data ranks, when all are full"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
