r"""The learning rate over a run: a linear rise, then constant, a line or a cosine.

The fall begins where the rise ends, so that the rate gets to ``lr``: with p the share of the run that is behind and
:math:`p_w` the share that the rise takes, the fall has come to :math:`\max(0, p - p_w) / (1 - p_w)`. With a floor of 0
these are ``get_linear_schedule_with_warmup`` and ``get_cosine_schedule_with_warmup`` of transformers, as in verl, but
for one step of the rise: they begin at 0, where a step changes nothing, and this at ``1/warmup_steps``.
"""

from __future__ import annotations

import math

from algos.config import OptimConfig

__all__ = ["lr_factor"]


def lr_factor(config: OptimConfig, step: int, *, progress: float, risen: float) -> float:
    """What the learning rate is multiplied by.

    Args:
        step: optimizer or training step, from 0; the rise counts these.
        progress: share of the run that is behind, in [0, 1].
        risen: share of the run that is behind when the rise ends, in [0, 1]; during the rise also ``progress``.

    >>> cosine = OptimConfig(schedule="cosine", lr_floor=0.1, warmup_steps=50)
    >>> [round(lr_factor(cosine, 1000, progress=p, risen=0.2), 2) for p in (0.2, 0.6, 1.0)]
    [1.0, 0.55, 0.1]
    """
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    fallen = min(1.0, (progress - risen) / (1 - risen)) if progress > risen else 0.0
    left = {"constant": 1.0, "linear": 1 - fallen, "cosine": 0.5 * (1 + math.cos(math.pi * fallen))}
    share = left[config.schedule]
    return rise * (1.0 if config.schedule == "constant" else config.lr_floor + (1 - config.lr_floor) * share)
