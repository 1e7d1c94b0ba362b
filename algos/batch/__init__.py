"""From trajectories to micro-batches.

Purpose: hand the losses rows of tokens with everything they read, so that how an optimizer step is laid out in memory
and over ranks changes its time and not its gradient.
Contract: a :class:`Sample` is one sequence; :func:`weighted` folds the loss denominator of the whole step into it;
:func:`micro_batches` (one rank) and :func:`rank_batches` (several) cut the step.

Left out: who collects the samples of all ranks, and moving batches to a device; both are the trainer's.
"""

from __future__ import annotations

from algos.batch.layout import LAYOUTS, Layout, balanced, collate, micro_batches, plan, rank_batches, rank_plan
from algos.batch.sample import Sample
from algos.batch.weights import AGGREGATIONS, Aggregation, weighted

__all__ = [
    "AGGREGATIONS",
    "LAYOUTS",
    "Aggregation",
    "Layout",
    "Sample",
    "balanced",
    "collate",
    "micro_batches",
    "plan",
    "rank_batches",
    "rank_plan",
    "weighted",
]
