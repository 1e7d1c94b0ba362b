"""Advantages that look at the whole step: statistics of the batch, or of every part of the reward.

Statistics run over all episodes of the step as in the sources, groups without a difference included; nothing is
learnt from those afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from algos.advantages.episodes import Credit, Episodes, Tokens, differs, per_episode
from algos.advantages.group import EPSILON, Rewards, centred, grpo
from retool_env.errors import UsageError

__all__ = ["by_group", "gdpo", "lite_ppo", "reinforce_pp_baseline", "whiten"]


def by_group(episodes: Episodes, *, function: Callable[[Rewards], Rewards]) -> Credit:
    """``function`` applied to the rewards of each group."""
    rewards = episodes.total_rewards
    return per_episode(episodes, _grouped(episodes, rewards, function), differs(episodes, rewards))


def lite_ppo(episodes: Episodes) -> Credit:
    """Centred in the group, over the standard deviation of the rewards of the batch (2508.08221)."""
    rewards = episodes.total_rewards
    spread = rewards.std(ddof=1) if len(rewards) > 1 else 0.0
    values = _grouped(episodes, rewards, centred) / (spread + EPSILON)
    return per_episode(episodes, values, differs(episodes, rewards))


def reinforce_pp_baseline(episodes: Episodes) -> Credit:
    """Centred in the group, then whitened over the trained tokens of the batch (2501.03262)."""
    rewards = episodes.total_rewards
    deviations = _grouped(episodes, rewards, centred)
    rows = whiten([np.full(int(mask.sum()), d) for mask, d in zip(episodes.trained, deviations, strict=True)])
    values = np.array([row[0] if len(row) else 0.0 for row in rows])
    return per_episode(episodes, values, differs(episodes, rewards))


def gdpo(episodes: Episodes) -> Credit:
    r"""Every part of the reward standardised in the group, added up, then standardised over the batch (2601.05242).

    A part's weight scales its share: parts are standardised without it. A group is left out when none of its parts
    makes a difference.

    The source has its KL penalty in the loss. One on the reward, :math:`\beta` times the KL of the episode, is taken
    off the finished advantage, centred in the group: standardised like a part, or with the parts where these make no
    difference, it would lose :math:`\beta`.

    Raises:
        UsageError: there are no parts.
    """
    if not episodes.parts:
        raise UsageError("gdpo needs the parts of the reward; give several, e.g. env.reward='{pm1: 1, format: 0.1}'")
    penalty = episodes.total_rewards - episodes.rewards
    total, used = np.zeros(len(episodes)), differs(episodes, penalty)
    for name, part in episodes.parts.items():
        total += episodes.part_weights.get(name, 1.0) * _grouped(episodes, part, grpo)
        used |= differs(episodes, part)
    spread = total.std(ddof=1) if len(total) > 1 else 0.0
    values = (total - total.mean()) / (spread + EPSILON)
    return per_episode(episodes, values + _grouped(episodes, penalty, centred), used)


def whiten(rows: list[Tokens]) -> list[Tokens]:
    """Mean 0 and standard deviation 1 over all entries of all rows; zero for one entry."""
    entries = np.concatenate([*rows, np.zeros(0)])
    if len(entries) < 2:
        return [np.zeros_like(row) for row in rows]
    mean, spread = entries.mean(), entries.std(ddof=1)
    return [(row - mean) / (spread + EPSILON) for row in rows]


def _grouped(episodes: Episodes, rewards: Rewards, function: Callable[[Rewards], Rewards]) -> Rewards:
    values = np.zeros(len(episodes))
    for members in episodes.by_group():
        values[members] = function(rewards[members])
    return values
