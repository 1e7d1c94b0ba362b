"""Rewards: named, weighted parts that read a finished episode.

Purpose: turn the facts about an episode (:class:`~retool_env.record.EpisodeRecord`) into the number that is trained on,
with every part visible, raw and weighted, in the trajectory and in the logs.
Contract: a part returns a number, or ``None`` for *unscored*, which drops the episode from training and is never 0.
The default, ``pm1``, is the paper's reward. Parts that read what a tool wrote say so (``reads_tool_results``), are
labelled, and are never a default. Accuracy is a metric of its own and is never computed from a reward.

* :func:`make_reward`: parts by name and weight, with options; a name may be a user's file or module (:mod:`.loading`).
* :func:`compute_reward` and :func:`reward_func`: the two signatures of the founding guides, for use without an
  environment (:mod:`.functions`).
* :func:`describe`: what was loaded, for the start of a log.

Left out: what is right, which is the verifier's to say (:mod:`retool_env.verifier`).
"""

from __future__ import annotations

from retool_env.rewards.combine import Part, Reward, make_reward
from retool_env.rewards.describe import describe
from retool_env.rewards.functions import RewardFunction, compute_reward, load_reward_function, reward_func
from retool_env.rewards.parts import REWARDS

__all__ = [
    "REWARDS",
    "Part",
    "Reward",
    "RewardFunction",
    "compute_reward",
    "describe",
    "load_reward_function",
    "make_reward",
    "reward_func",
]
