"""The learning rate over a run: a linear rise, then constant, a line or a cosine."""

from __future__ import annotations

import math

from algos.config import OptimConfig

__all__ = ["lr_factor"]


def lr_factor(config: OptimConfig, step: int, *, progress: float) -> float:
    """What the learning rate is multiplied by.

    Args:
        step: optimizer or training step, from 0; the rise counts these.
        progress: share of the run that is behind, in [0, 1].

    >>> cosine = OptimConfig(schedule="cosine", lr_floor=0.1, warmup_steps=50)
    >>> [round(lr_factor(cosine, 1000, progress=p), 2) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.55, 0.1]
    """
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, max(0.0, progress))
    left = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    share = left[config.schedule]
    return rise * (1.0 if config.schedule == "constant" else config.lr_floor + (1 - config.lr_floor) * share)
