"""The frozen policy that a KL penalty pulls towards.

With adapters it is the model without them, and costs nothing; otherwise a copy of its own, sharded like the policy.
Both are called like a :class:`~algos.scorer.Scorer`, so :func:`algos.per_token.per_token` gives their
log-probabilities.

Left out: a refreshed reference for adapters, which would need these merged; it is refused.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from algos.policy.adapters import adapters_off, has_adapters
from algos.policy.config import PolicyOptions
from algos.policy.model import build_policy
from algos.policy.world import World
from algos.scorer import Scorer
from retool_env.errors import UsageError

__all__ = ["Reference", "make_reference"]


class Reference(nn.Module):
    """Log-probabilities and entropies under the reference policy, without gradients.

    Args:
        scorer: of the policy when that has adapters, else of the copy.
        policy: whose weights :meth:`refresh` takes; ``None`` with adapters.
    """

    def __init__(self, scorer: Scorer, policy: nn.Module | None) -> None:
        super().__init__()
        self.scorer = scorer
        self._policy = (policy,)  # in a tuple: no part of this module
        if policy is not None:
            scorer.model.requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`algos.scorer.Scorer.forward`."""
        if self._policy[0] is not None:
            return self.scorer.forward(token_ids, trained, position_ids)
        with adapters_off(self.scorer.model):
            return self.scorer.forward(token_ids, trained, position_ids)

    @torch.no_grad()
    def refresh(self) -> None:
        """Become the policy as it is now.

        Raises:
            UsageError: the policy has adapters.
        """
        policy = self._policy[0]
        if policy is None:
            raise UsageError(
                "a reference that is refreshed needs a copy of the policy, and with model.lora there is none; train "
                "all weights, or keep the reference"
            )
        for own, now in zip(self.scorer.model.parameters(), policy.parameters(), strict=True):
            _local(own).copy_(_local(now))


def make_reference(policy: nn.Module, path: str, options: PolicyOptions, world: World, *, like: Scorer) -> Reference:
    """The reference of a policy; every rank must call this.

    Args:
        path: checkpoint folder of the frozen weights; not read when the policy has adapters.
        options: those of the policy.
        like: the policy's scorer; the reference scores with the same settings.
    """
    if has_adapters(policy):
        return Reference(like, None)
    frozen = build_policy(path, options, world)
    return Reference(like.over(frozen), policy)


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """This rank's part: both models are sharded alike."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
