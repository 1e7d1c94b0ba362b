"""Advantages that need nothing but the rewards of one group: functions of ``[group_size]`` to ``[group_size]``.

A group whose rewards are all equal has advantage exactly zero, and so has a group of one: rounding of the mean never
leaves a remainder that a small standard deviation could blow up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from retool_env.errors import UsageError

__all__ = ["ADVANTAGES", "EPSILON", "Rewards", "centred", "dr_grpo", "grpo", "maxrl", "rloo"]

Rewards = NDArray[np.float64]
EPSILON = 1e-6


def grpo(rewards: Rewards) -> Rewards:
    """Standardised within the group (2402.03300), with the unbiased standard deviation."""
    spread = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    return centred(rewards) / (spread + EPSILON)


def dr_grpo(rewards: Rewards) -> Rewards:
    """Centred, not scaled (2503.20783): hard and easy problems keep their weight."""
    return centred(rewards)


def rloo(rewards: Rewards) -> Rewards:
    """Against the mean of the others (2402.14740)."""
    num = len(rewards)
    return centred(rewards) * num / (num - 1) if num > 1 else np.zeros_like(rewards)


def maxrl(rewards: Rewards) -> Rewards:
    """Centred over the mean (2602.02710): the rarer success is, the more it counts. For rewards of 0 and 1.

    Raises:
        UsageError: a negative reward, for which the quotient means nothing.
    """
    if (rewards < 0).any():
        raise UsageError(f"maxrl got reward {rewards.min():g}: it needs rewards >= 0; set env.reward=accuracy")
    values: Rewards = centred(rewards) / (rewards.mean() + EPSILON)
    return values


def centred(rewards: Rewards) -> Rewards:
    """The rewards minus their mean; exactly zero where they are all equal."""
    if np.ptp(rewards) == 0:
        return np.zeros_like(rewards)
    deviations: Rewards = rewards - rewards.mean()
    return deviations


ADVANTAGES: Mapping[str, Callable[[Rewards], Rewards]] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}
