"""The optimizer steps of a training step.

An *update* is one optimizer step on some groups: the denominator of its loss is computed over all of them and all
ranks, samples that no term of the loss reads included; micro-batches of the others are accumulated, gradients clipped.
Where loss or gradient is not a finite number, nothing is changed and the update is counted as skipped. While the critic
warms up, it alone is trained.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import Counter
from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase

from algos.actor_critic import ActorCritic
from algos.algo_config import AlgoConfig
from algos.batch import Sample, rank_batches, weighted
from algos.config import TrainConfig
from algos.metrics import Metrics
from algos.policy.model import clip_gradients
from algos.policy.world import World
from algos.sync.base import WeightSync
from algos.timing import Timing
from retool_env.seeding import derive

__all__ = ["accumulate", "minibatches", "update"]

NAMES = {
    "loss_objective": "actor/loss",
    "entropy": "actor/entropy",
    "kl_approx": "actor/ppo_kl",
    "clip_fraction": "actor/pg_clipfrac",
    "cap_fraction": "actor/pg_clipfrac_lower",
    "rejected_fraction": "actor/rejected_fraction",
    "kl_reference": "actor/kl_loss",
    "logprob_gap_mean": "logprob_gap/mean",
}
CRITIC_NAMES = {
    "loss_objective": "critic/vf_loss",
    "value": "critic/vpred_mean",
    "clip_fraction": "critic/vf_clipfrac",
}


def update(
    parts: ActorCritic,
    samples: Sequence[Sample],
    config: TrainConfig,
    world: World,
    *,
    step: int,
    sync: WeightSync | None = None,
    timing: Timing | None = None,
) -> Metrics:
    """All updates of a step; then version ``step + 1`` is published.

    Nothing samples from weights between two versions: the guard is held from the first change until that.

    Returns:
        Means over the updates; ``logprob_gap/*`` of the first one alone, because it compares trainer and engine before
        anything changed.
    """
    algo, rows, timing = config.algo, list[Metrics](), timing or Timing()
    with contextlib.ExitStack() as guard:
        for epoch in range(algo.epochs):
            seed = derive(config.seed, "minibatch", step, epoch)
            for part in minibatches(samples, algo.minibatches, seed=seed):
                with timing.stage("update_actor"):
                    rows.append(_gradients(parts, part, config, world, step=step))
                    if len(rows) == 1 and sync is not None:
                        guard.enter_context(sync.guard())
                    rows[-1] |= _apply(parts, config, loss=rows[-1], step=step)
        if sync is not None:
            with timing.stage("update_weights"):
                sync.publish(step + 1)
    return _over_updates(rows)


def minibatches(samples: Sequence[Sample], num: int, *, seed: int) -> list[list[Sample]]:
    """Parts of about as many groups each, drawn anew in every pass; a group is never split.

    Groups that the loss reads are dealt out first and the others behind them, so that parts have about as many of
    either kind: each part's denominator is its own, as in trl and verl, and where those draw blindly a part with few
    groups to learn from would make a small step and another a large one. A part with none makes no step.
    """
    read = {sample.group for sample in samples if sample.read}
    groups = sorted({sample.group for sample in samples})
    random.Random(seed).shuffle(groups)
    groups.sort(key=lambda group: group not in read)
    part_of = {group: k % num for k, group in enumerate(groups)}
    parts = [[sample for sample in samples if part_of[sample.group] == k] for k in range(num)]
    return [part for part in parts if any(sample.read for sample in part)]


def accumulate(
    parts: ActorCritic, batches: Sequence[TensorDict], algo: AlgoConfig, *, device: torch.device, actor: bool = True
) -> tuple[list[TensorDictBase], list[TensorDictBase]]:
    """Add the gradients of these micro-batches to those that are there; returns what the losses say of each."""
    policy, values = list[TensorDictBase](), list[TensorDictBase]()
    for cpu_batch in batches:
        batch = cpu_batch.to(device)
        if actor:
            out = parts.loss(batch)
            out["loss_objective"].backward()
            policy.append(out.detach())
        if parts.critic is not None:
            out = parts.critic.loss(batch)
            (out["loss_objective"] * (algo.critic.coef if algo.critic.shared else 1.0)).backward()
            values.append(out.detach())
    return policy, values


def _gradients(
    parts: ActorCritic, samples: Sequence[Sample], config: TrainConfig, world: World, *, step: int
) -> Metrics:
    """Gradients of the loss over all samples, in place of those that were there; returns the metrics."""
    algo = config.algo
    length = algo.aggregation_length or config.env.max_context_tokens
    counted = weighted(samples, algo.aggregation, constant=length, num_ranks=world.size)
    batches = rank_batches(
        [sample for sample in counted if sample.read],
        rank=world.data_rank,
        num_ranks=world.num_data_ranks,
        max_tokens=algo.micro_batch_tokens,
        layout=parts.layout,
    )
    for optimizer in parts.optimizers.values():
        optimizer.zero_grad()
    policy, values = accumulate(parts, batches, algo, device=world.device, actor=_trains_actor(config, step))
    metrics = _means(policy, NAMES, world) | _means(values, CRITIC_NAMES, world)
    if policy:
        metrics["logprob_gap/max"] = world.max(max(float(row["logprob_gap"]) for row in policy))
    return metrics


def _apply(parts: ActorCritic, config: TrainConfig, *, loss: Metrics, step: int) -> Metrics:
    """Clip and take the step, or skip it."""
    most, norms = config.optim.max_grad_norm, Metrics()
    names = [name for name in parts.optimizers if name == "critic" or _trains_actor(config, step)]
    for name in names:
        group = [p for row in parts.optimizers[name].param_groups for p in row["params"]]
        norms[f"{name}/grad_norm"] = clip_gradients(group, most)
    losses = [value for name, value in loss.items() if name in ("actor/loss", "critic/vf_loss")]
    finite = torch.tensor([*norms.values(), *losses]).isfinite().all()
    for name in names if finite else ():
        parts.optimizers[name].step()
    return norms | {"num_skipped_updates": float(not finite)}


def _trains_actor(config: TrainConfig, step: int) -> bool:
    return not config.algo.needs_critic or step >= config.algo.critic.warmup_steps


def _means(rows: Sequence[TensorDictBase], names: dict[str, str], world: World) -> Metrics:
    """Sums over all micro-batches and ranks, over the sum of the weights: means over trained tokens."""
    if not rows:
        return {}
    mine = {key: math.fsum(float(row[key]) for row in rows) for key in [*names, "weight"]}
    ranks = world.gather(mine)
    totals = {key: math.fsum(rank[key] for rank in ranks) for key in mine}
    means = {name: totals[key] / (totals["weight"] or 1.0) for key, name in names.items()}
    return means | {names["loss_objective"]: totals["loss_objective"] / world.size}


def _over_updates(rows: Sequence[Metrics]) -> Metrics:
    totals = Counter[str]()
    for row in rows:
        totals.update(row)
    means = {name: value if name.startswith("num_skipped") else value / len(rows) for name, value in totals.items()}
    return means | {name: value for row in rows[:1] for name, value in row.items() if name.startswith("logprob_gap/")}
