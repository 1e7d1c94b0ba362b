"""What advantages are computed from, and what they come out as.

One row per episode. Token arrays have the length of the episode's transcript and count at trained positions only, so
that an observation can neither receive credit nor change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from algos.advantages.group import Rewards

__all__ = ["Advantage", "Credit", "Episodes", "Tokens", "differs", "has_actions", "per_episode", "scatter"]

Tokens = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """The scored episodes of one optimizer step, over all ranks.

    Attributes:
        rewards: ``[num_episodes]``.
        groups: which episodes share a problem, ``[num_episodes]``.
        trained: True at the tokens that the policy wrote, ``[num_tokens]`` per episode.
        parts: the parts of the reward by name, before their weights, ``[num_episodes]`` each.
        part_weights: weights of these parts; one that is missing is 1.
        values: of the critic before each trained token, ``[num_tokens]`` per episode.
        kl: the behaviour's log-probability minus the reference's, ``[num_tokens]`` per episode.
        kl_coef: factor of ``kl`` where it is taken off the reward.
    """

    rewards: Rewards
    groups: NDArray[np.int64]
    trained: Sequence[NDArray[np.bool_]]
    parts: Mapping[str, Rewards] = field(default_factory=dict)
    part_weights: Mapping[str, float] = field(default_factory=dict)
    values: Sequence[Tokens] | None = None
    kl: Sequence[Tokens] | None = None
    kl_coef: float = 0.0

    def __post_init__(self) -> None:
        assert len(self.rewards) == len(self.groups) == len(self.trained), "one row per episode"
        assert np.isfinite(self.rewards).all(), "unscored episodes enter no baseline"
        assert not self.kl_coef or self.kl is not None, "a penalty needs the reference's log-probabilities"

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def total_rewards(self) -> Rewards:
        """Rewards minus the KL penalty summed over each episode's trained tokens."""
        total: Rewards = self.rewards - np.array([penalty.sum() for penalty in self._penalties()])
        return total

    def token_rewards(self) -> list[Tokens]:
        """Rewards of the trained tokens alone, ``[num_trained]`` per episode: the KL penalty of each, and the
        episode's reward at the last. Tokens that the policy did not write are no steps."""
        rows = [-penalty for penalty in self._penalties()]
        for row, reward in zip(rows, self.rewards, strict=True):
            row[-1:] += reward
        return rows

    def by_group(self) -> Iterator[NDArray[np.int64]]:
        """Indices of the members of each group."""
        for group in np.unique(self.groups):
            yield np.flatnonzero(self.groups == group)

    def _penalties(self) -> list[Tokens]:
        if not self.kl_coef:
            return [np.zeros(int(mask.sum())) for mask in self.trained]
        assert self.kl is not None
        return [self.kl_coef * kl[mask] for kl, mask in zip(self.kl, self.trained, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Advantages of every token, zero where it is not trained.

    Attributes:
        advantages: ``[num_tokens]`` per episode.
        used: False for the episodes that a training forward would learn nothing from, ``[num_episodes]``.
        returns: what the critic should have said, ``[num_tokens]`` per episode; only from estimators with a critic.
    """

    advantages: list[Tokens]
    used: NDArray[np.bool_]
    returns: list[Tokens] | None = None


Advantage = Callable[[Episodes], Credit]


def scatter(episodes: Episodes, rows: Sequence[Tokens]) -> list[Tokens]:
    """From ``[num_trained]`` per episode to ``[num_tokens]``, zero elsewhere."""
    out = [np.zeros(len(mask)) for mask in episodes.trained]
    for target, mask, row in zip(out, episodes.trained, rows, strict=True):
        target[mask] = row
    return out


def has_actions(episodes: Episodes) -> NDArray[np.bool_]:
    """Which episodes have a trained token at all, ``[num_episodes]``."""
    return np.array([mask.any() for mask in episodes.trained], dtype=np.bool_)


def differs(episodes: Episodes, rewards: Rewards) -> NDArray[np.bool_]:
    """Which episodes are in a group whose rewards are not all the same, ``[num_episodes]``."""
    out = np.zeros(len(episodes), dtype=np.bool_)
    for members in episodes.by_group():
        out[members] = np.ptp(rewards[members]) > 0
    return out


def per_episode(episodes: Episodes, values: Rewards, used: NDArray[np.bool_]) -> Credit:
    """One advantage, of ``values``, for all trained tokens of an episode; zero for those that are not used."""
    used = used & has_actions(episodes)
    values = np.where(used, values, 0.0)
    return Credit(advantages=[np.where(m, v, 0.0) for m, v in zip(episodes.trained, values, strict=True)], used=used)
