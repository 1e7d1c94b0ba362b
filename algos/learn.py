"""One training step: from trajectories to new weights that the engine samples from.

Groups are scored, what must not be trained on is left out and counted, and ``algo.updates_per_step`` optimizer steps
follow. How new weights reach the engine is behind :class:`algos.sync.base.WeightSync`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence

import torch

from algos.batch import Sample, micro_batches, token_mean_weight
from algos.config import TrainConfig
from algos.groups import samples_of, withhold
from algos.losses import PolicyLoss
from algos.metrics import age_metrics, rollout_metrics
from algos.sync.base import WeightSync
from retool_env.errors import InfrastructureError
from retool_env.trajectory import Trajectory

__all__ = ["learn", "select", "stop_if_broken"]


def learn(
    loss: PolicyLoss,
    optimizer: torch.optim.Optimizer,
    trajectories: Sequence[Trajectory],
    config: TrainConfig,
    *,
    step: int,
    sync: WeightSync | None = None,
) -> dict[str, float]:
    """Train on the trajectories of a step, and publish version ``step + 1``.

    Args:
        trajectories: whole groups, in ticket order.
        step: the version that is trained.
        sync: brings the weights to the engine; ``None`` when there is none.

    Returns:
        The step's metrics.

    Raises:
        InfrastructureError: more episodes failed than ``algo.max_failed_share``.
    """
    stop_if_broken(trajectories, config.algo.max_failed_share)
    samples, metrics = select(trajectories, config, step=step)
    return metrics | _update(loss, optimizer, samples, config, version=step + 1, sync=sync)


def select(
    trajectories: Sequence[Trajectory], config: TrainConfig, *, step: int
) -> tuple[list[Sample], dict[str, float]]:
    """What a step trains on, and the metrics of everything that it took.

    Args:
        trajectories: whole groups, in ticket order.
        step: the version that is trained.
    """
    algo, rollout = config.algo, config.rollout
    groups = [list(members) for _, members in itertools.groupby(trajectories, key=lambda t: t.group)]
    may_train = [
        withhold(group, version=step, max_age=rollout.staleness, versions=rollout.group_versions) for group in groups
    ]
    samples, stats = samples_of(may_train, advantage=algo.advantage, mask_tool_tokens=algo.mask_tool_tokens)
    kept = [trajectory for group in may_train for trajectory in group]
    metrics = rollout_metrics(trajectories) | age_metrics(kept, version=step)
    return samples, metrics | {
        "groups/total": float(stats.num_groups),
        "groups/zero_spread": float(stats.num_zero_spread),
        "groups/dropped": float(stats.num_dropped),
        "groups/excluded_samples": float(stats.num_excluded),
        "groups/withheld_samples": float(len(trajectories) - len(kept)),
    }


def _update(
    loss: PolicyLoss,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    config: TrainConfig,
    *,
    version: int,
    sync: WeightSync | None,
) -> dict[str, float]:
    """All updates of a step. Nothing samples from weights between two versions: the guard is held from the first
    optimizer step until the new version is published."""
    metrics: dict[str, float] = {}
    with contextlib.ExitStack() as guard:
        for number in range(config.algo.updates_per_step if samples else 0):
            updated = _gradients(loss, optimizer, samples, config)
            if number == 0 and sync is not None:
                guard.enter_context(sync.guard())
            optimizer.step()
            # The gap between trainer and engine is measured before anything changed, so the first update's is kept.
            metrics |= updated if number == 0 else {k: v for k, v in updated.items() if k != "logprob_gap/max"}
        if sync is not None:
            sync.publish(version)
    return metrics


def stop_if_broken(trajectories: Sequence[Trajectory], max_share: float) -> None:
    """Raise :class:`InfrastructureError` when more than ``max_share`` of the episodes failed."""
    failed = Counter(str(t.record.outcome) for t in trajectories if t.record.outcome.failed)
    if failed.total() > max_share * len(trajectories):
        causes = ", ".join(f"{name} {count}" for name, count in failed.most_common())
        raise InfrastructureError(
            f"{failed.total()} of {len(trajectories)} episodes of this step failed ({causes}), more than "
            f"algo.max_failed_share={max_share:g}; repair it and go on with resume=true"
        )


def _gradients(
    loss: PolicyLoss, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], config: TrainConfig
) -> dict[str, float]:
    """Clipped gradients of the loss over all samples, in place of those that were there; returns the metrics."""
    weight = token_mean_weight(samples)
    optimizer.zero_grad()
    rows = []
    for batch in micro_batches(samples, max_tokens=config.algo.micro_batch_tokens, weight=weight):
        out = loss(batch)
        out["loss_objective"].backward()
        rows.append(out.detach())
    norm = torch.nn.utils.clip_grad_norm_(loss.scorer.parameters(), config.optim.max_grad_norm)
    return {
        "actor/loss": sum(float(row["loss_objective"]) for row in rows),
        "actor/entropy": sum(float(row["entropy"]) for row in rows),
        "actor/ppo_kl": sum(float(row["kl_approx"]) for row in rows),
        "actor/pg_clipfrac": sum(float(row["clip_fraction"]) for row in rows),
        "actor/grad_norm": float(norm),
        "logprob_gap/max": max(float(row["logprob_gap"]) for row in rows),
        "num_samples": float(len(samples)),
        "num_tokens/trained": 1 / weight,
    }
