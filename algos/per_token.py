"""What a module says about samples before an update: log-probabilities of a policy, or values of a critic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from algos.batch import Layout, Sample, collate, rank_plan
from algos.batch.sample import dummy
from algos.policy.sharding import compute_device
from algos.policy.world import World

__all__ = ["per_token"]

Row = NDArray[np.float32]


@torch.no_grad()
def per_token(
    module: nn.Module,
    samples: Sequence[Sample],
    *,
    max_tokens: int,
    layout: Layout = "sorted",
    world: World | None = None,
) -> list[Row]:
    """What a scorer or critic says about the samples: ``[num_tokens]`` each, in their order, NaN where not trained.

    Args:
        module: takes ids, trained positions and positions.
        max_tokens: of a micro-batch.
        world: the ranks that share the work; each gets everything.
    """
    if not samples:
        return []
    rank, num_ranks = (world.data_rank, world.num_data_ranks) if world else (0, 1)
    parts = rank_plan(samples, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens, layout=layout)
    rows: dict[int, Row] = {}
    for part in parts:
        scored = _score(module, [samples[k] for k in part] or [dummy(samples[0])], layout)
        rows |= dict(zip(part, scored, strict=False))  # a dummy's row belongs to nobody
    every = {k: row for mine in (world.gather(rows) if world else [rows]) for k, row in mine.items()}
    return [every[k] for k in range(len(samples))]


def _score(module: nn.Module, samples: Sequence[Sample], layout: Layout) -> list[Row]:
    """One micro-batch."""
    batch = collate(samples, layout).to(compute_device(module))
    result = module(batch["token_ids"], batch["trained"], batch.get("position_ids"))
    values = (result if isinstance(result, torch.Tensor) else result[0]).float().cpu().numpy()
    sequence = batch["sequence_ids"][batch["trained"]].cpu().numpy()
    rows = [np.full(len(sample), np.nan, dtype=np.float32) for sample in samples]
    for k, sample in enumerate(samples):
        rows[k][sample.trained] = values[sequence == k]
    return rows
