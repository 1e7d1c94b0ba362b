r"""Advantages per token: returns-to-go and generalised advantage estimation over the compressed action sequence.

The steps of an episode are the tokens that the policy wrote, and nothing else. What a tool said lies between two steps:
it costs no discount, the value there is never read, and the reward of the episode belongs to the last step even when
the transcript ends behind it. With :math:`\gamma = \lambda = 1` none of this would show, which is why it goes wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from algos.advantages.batch import whiten
from algos.advantages.episodes import Credit, Episodes, Tokens, has_actions, scatter
from retool_env.errors import UsageError

__all__ = ["gae", "reinforce_pp", "vapo"]


def reinforce_pp(episodes: Episodes, *, gamma: float = 1.0) -> Credit:
    """Return-to-go of the penalised token rewards, whitened over the trained tokens of the batch (2501.03262)."""
    returns = _discounted(episodes.token_rewards(), [gamma] * len(episodes))
    return Credit(advantages=scatter(episodes, whiten(returns)), used=has_actions(episodes))


def gae(episodes: Episodes, *, gamma: float = 1.0, lam: float = 1.0, normalise: bool = True) -> Credit:
    r"""Generalised advantage estimation (1506.02438).

    :math:`\delta_k = r_k + \gamma V_{k+1} - V_k` and :math:`A_k = \delta_k + \gamma\lambda A_{k+1}` over the trained
    tokens, with nothing behind the last one; returns are :math:`A_k + V_k`.

    Args:
        gamma: discount per token.
        lam: lambda, of policy and critic.
        normalise: whiten the advantages over the trained tokens of the batch, as PPO for language models does.
    """
    return _credit(episodes, gamma=gamma, policy_lams=[lam] * len(episodes), critic_lam=lam, normalise=normalise)


def vapo(
    episodes: Episodes, *, gamma: float = 1.0, critic_lam: float = 1.0, alpha: float = 0.05, normalise: bool = True
) -> Credit:
    r"""GAE with a lambda for the critic and another, :math:`1 - 1/(\alpha S)`, for the policy (2504.05118).

    S is the number of trained tokens of the episode: long ones need a longer horizon. Below :math:`1/\alpha` tokens
    lambda is 0.
    """
    lams = [max(0.0, 1.0 - 1.0 / (alpha * max(1, int(mask.sum())))) for mask in episodes.trained]
    return _credit(episodes, gamma=gamma, policy_lams=lams, critic_lam=critic_lam, normalise=normalise)


def _credit(
    episodes: Episodes, *, gamma: float, policy_lams: Sequence[float], critic_lam: float, normalise: bool
) -> Credit:
    if episodes.values is None:
        raise UsageError("gae and vapo need a critic: the episodes hold no values; configure one, or take reinforce_pp")
    values = [value[mask] for value, mask in zip(episodes.values, episodes.trained, strict=True)]
    errors = [
        reward + gamma * np.append(value[1:], 0.0)[: len(value)] - value
        for reward, value in zip(episodes.token_rewards(), values, strict=True)
    ]
    advantages = _discounted(errors, [gamma * lam for lam in policy_lams])
    targets = _discounted(errors, [gamma * critic_lam] * len(errors))
    returns = [target + value for target, value in zip(targets, values, strict=True)]
    return Credit(
        advantages=scatter(episodes, whiten(advantages) if normalise else advantages),
        used=has_actions(episodes),
        returns=scatter(episodes, returns),
    )


def _discounted(rows: Sequence[Tokens], factors: Sequence[float]) -> list[Tokens]:
    """Each row's sums from an entry to its end, one ``factor`` per step: the recursion runs over all rows at once."""
    length = max((len(row) for row in rows), default=0)
    columns = np.zeros((length, len(rows)))
    for k, row in enumerate(rows):
        columns[length - len(row) :, k] = row
    carried, scale = np.zeros(len(rows)), np.array(factors)
    for column in columns[::-1]:
        column += scale * carried
        carried = column
    return [columns[length - len(row) :, k] for k, row in enumerate(rows)]
