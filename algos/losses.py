r"""The clipped policy loss as a TorchRL ``LossModule`` over micro-batches of whole sequences.

.. math::
    L = -\sum_t w_t \min\big(r_t A_t,\; \mathrm{clip}(r_t, 1 - \epsilon_{lo}, 1 + \epsilon_{hi}) A_t\big),
    \qquad r_t = \exp(\log p_t - \log u_t)

with :math:`p` the current policy and :math:`u` the one that sampled (1707.06347; asymmetric bounds 2503.14476). The
weights :math:`w_t` carry the denominator of the whole optimizer step, so micro-batch losses are *summed*. The sum runs
over trained positions only; nothing at any other position enters it, its gradient or a metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.objectives import LossModule

from algos.scorer import Scorer

__all__ = ["PolicyLoss"]


class PolicyLoss(LossModule):  # type: ignore[misc]
    """Clipped surrogate.

    Reads ``token_ids``, ``trained``, ``behaviour_logprobs``, ``advantages`` and ``weights``, all ``[num_rows, length]``
    (keys can be renamed with ``set_keys``). Returns scalars: ``loss_objective`` to be minimised; ``entropy``,
    ``kl_approx`` (:math:`\\log u - \\log p`) and ``clip_fraction`` as weighted means; ``logprob_gap``, the largest
    :math:`|\\log p - \\log u|`, which before the first update measures trainer against engine.

    A trained position without a behaviour log-probability (the mask ablation) has ratio 1.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):  # type: ignore[misc]
        token_ids: str = "token_ids"
        trained: str = "trained"
        behaviour_logprobs: str = "behaviour_logprobs"
        advantages: str = "advantages"
        weights: str = "weights"

    default_keys: ClassVar[type] = _AcceptedKeys
    out_keys: ClassVar[list[str]] = ["loss_objective", "entropy", "kl_approx", "clip_fraction", "logprob_gap"]

    def __init__(self, scorer: Scorer, *, clip_low: float = 0.2, clip_high: float = 0.28) -> None:
        super().__init__()
        self.scorer = scorer
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.set_keys()

    @property
    def in_keys(self) -> list[str]:
        keys = self.tensor_keys
        return [keys.token_ids, keys.trained, keys.behaviour_logprobs, keys.advantages, keys.weights]

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        """There is no value estimator."""

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys = self.tensor_keys
        trained = batch[keys.trained]
        logprobs, entropy = self.scorer(batch[keys.token_ids], trained)  # [num_trained]
        behaviour = batch[keys.behaviour_logprobs][trained]
        known = behaviour.isfinite()
        gap = logprobs - torch.where(known, behaviour, logprobs.detach())
        advantages, weights = batch[keys.advantages][trained], batch[keys.weights][trained]
        ratio = gap.exp()
        low, high = 1 - self.clip_low, 1 + self.clip_high
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
        out = {"loss_objective": -(surrogate * weights).sum()}
        with torch.no_grad():
            clipped = (ratio < low) | (ratio > high)
            out["entropy"] = (entropy * weights).sum()
            out["kl_approx"] = -(gap * weights).sum()
            out["clip_fraction"] = (clipped * weights).sum()
            out["logprob_gap"] = gap.abs().max() if len(gap) else gap.new_zeros(())
        return TensorDict(out, batch_size=[])
