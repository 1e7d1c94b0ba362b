"""The trained tokens of a micro-batch, flat: what objectives and corrections compute with.

Contract: nothing of any other position is here, so nothing of it can enter a ratio, a mean over a sequence, a penalty
or a metric. Sequences are never cut, so what is a sum over a sequence here is a sum over the whole of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LIMIT", "TrainedTokens"]

LIMIT = 20.0  # of a log-ratio before exp: beyond it float32 overflows, and inf * 0 is no number


@dataclass(frozen=True, kw_only=True)
class TrainedTokens:
    """Tensors of shape ``[num_trained]``.

    Attributes:
        logprobs: of the current policy, with gradient.
        proximal: of the policy that ratios are taken against: the trainer's at the start of the step, or the behaviour.
        behaviour: of the policy that sampled.
        advantages: per token.
        sequence: which sequence of the batch a token belongs to.
        selected: tokens singled out before the step; ``None`` when nothing was.
    """

    logprobs: torch.Tensor
    proximal: torch.Tensor
    behaviour: torch.Tensor
    advantages: torch.Tensor
    sequence: torch.Tensor
    selected: torch.Tensor | None = None

    @property
    def log_ratio(self) -> torch.Tensor:
        return (self.logprobs - self.proximal).clamp(-LIMIT, LIMIT)

    @property
    def log_weight(self) -> torch.Tensor:
        """Proximal against behaviour, without gradient."""
        return (self.proximal - self.behaviour).clamp(-LIMIT, LIMIT).detach()

    def sequence_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the trained tokens of each token's sequence, ``[num_trained]``."""
        if not len(values):
            return values
        sums = values.new_zeros(int(self.sequence.max()) + 1)
        return sums.index_add(0, self.sequence, values)[self.sequence]

    def sequence_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the trained tokens of each token's sequence, ``[num_trained]``."""
        return self.sequence_sum(values) / self.sequence_sum(torch.ones_like(values))
