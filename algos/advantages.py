r"""Advantages of whole episodes, by group.

All work on the rewards :math:`R_i` of the samples of one problem. A group whose rewards are all equal has advantage
zero under each of them and is dropped before the training forward.

==========  ==============================================================  ===========
name        formula                                                         source
==========  ==============================================================  ===========
grpo        :math:`(R_i - \bar R) / (s + 10^{-6})`, s the unbiased          2402.03300
            standard deviation of the group
dr_grpo     :math:`R_i - \bar R`                                            2503.20783
rloo        :math:`R_i - \frac{1}{G-1}\sum_{j \ne i} R_j`                   2402.14740
==========  ==============================================================  ===========
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["ADVANTAGES", "dr_grpo", "grpo", "rloo"]

Rewards = NDArray[np.float64]
EPSILON = 1e-6


def grpo(rewards: Rewards) -> Rewards:
    """Standardised within the group; zero for a group of one. Shapes ``[group_size]``."""
    spread = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    return _centred(rewards) / (spread + EPSILON)


def dr_grpo(rewards: Rewards) -> Rewards:
    """Centred, not scaled: hard and easy problems keep their weight. Shapes ``[group_size]``."""
    return _centred(rewards)


def rloo(rewards: Rewards) -> Rewards:
    """Against the mean of the others; zero for a group of one. Shapes ``[group_size]``."""
    num = len(rewards)
    return _centred(rewards) * num / (num - 1) if num > 1 else np.zeros_like(rewards)


def _centred(rewards: Rewards) -> Rewards:
    centred: Rewards = rewards - rewards.mean()
    return centred


ADVANTAGES: Mapping[str, Callable[[Rewards], Rewards]] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}
