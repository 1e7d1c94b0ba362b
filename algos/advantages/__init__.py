r"""Advantages: how much better a sample, or a token of it, was than expected.

Purpose: from the rewards of one optimizer step to one number per trained token.
Contract: :func:`make_advantage` gives a function from :class:`Episodes` (rewards, groups, parts of the reward, values,
all over the whole step and all ranks) to :class:`Credit`. An advantage depends on no micro-batch and no padding.
Episodes of a group without a difference are marked as not used: they count in the loss's denominators, and no model
runs on them. A group of one is never NaN. A KL penalty on the reward counts at trained tokens only.

=====================  =====================================================================  ============
name                   formula                                                                source
=====================  =====================================================================  ============
grpo                   :math:`(R_i - \bar R) / (s + 10^{-6})`, s the unbiased standard        2402.03300
                       deviation of the group
dr_grpo                :math:`R_i - \bar R`                                                   2503.20783
rloo                   :math:`R_i - \frac{1}{G-1}\sum_{j \ne i} R_j`                          2402.14740
maxrl                  :math:`(R_i - \bar R) / (\bar R + 10^{-6})`, rewards 0 and 1           2602.02710
lite_ppo               :math:`(R_i - \bar R) / (s_{batch} + 10^{-6})`                         2508.08221
gdpo                   each part of the reward as in grpo, weighted sum, standardised         2601.05242
                       over the batch
reinforce_pp           return-to-go per token, whitened over the batch's trained tokens       2501.03262
reinforce_pp_baseline  :math:`R_i - \bar R`, whitened over the batch's trained tokens         2501.03262
gae                    :math:`\sum_j (\gamma\lambda)^j \delta_{k+j}` over the trained tokens  1506.02438
vapo                   gae with another lambda for the critic than for the policy             2504.05118
=====================  =====================================================================  ============

Left out: the values themselves (:mod:`algos.value`) and which trajectories are scored (:mod:`algos.groups`).
:data:`ADVANTAGES` holds the plain functions of one group's rewards.
"""

from __future__ import annotations

from algos.advantages.episodes import Advantage, Credit, Episodes
from algos.advantages.group import ADVANTAGES, dr_grpo, grpo, maxrl, rloo
from algos.advantages.registry import ESTIMATORS, make_advantage, needs_critic

__all__ = [
    "ADVANTAGES",
    "ESTIMATORS",
    "Advantage",
    "Credit",
    "Episodes",
    "dr_grpo",
    "grpo",
    "make_advantage",
    "maxrl",
    "needs_critic",
    "rloo",
]
