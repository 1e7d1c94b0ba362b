r"""The policy loss: objective, rollout correction, KL term and entropy bonus, over micro-batches of whole sequences.

.. math::
    L = \sum_t w_t \big( c_t\, \mathrm{objective}_t + \beta\, \mathrm{KL}_t - \eta H_t \big)

The weights :math:`w_t` carry the denominator of the whole optimizer step (:func:`algos.batch.weighted`), so losses of
micro-batches are *summed*. The sum runs over trained positions only; nothing at any other position enters it, its
gradient or a metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.objectives import LossModule

from algos.correction import Correction
from algos.losses.kl import KlPenalty
from algos.losses.objectives import Clip, ClipCov, KlCov, Objective
from algos.scorer import Scorer
from algos.tokens import TrainedTokens
from retool_env.errors import UsageError

__all__ = ["PolicyLoss"]


class PolicyLoss(LossModule):  # type: ignore[misc]
    r"""Reads a batch of :func:`algos.batch.micro_batches`, ``[num_rows, length]``; keys can be renamed (``set_keys``).

    Returns scalars. ``loss_objective`` is all of the loss, to be minimised. The others are metrics, sums weighted like
    the loss: their sum over the batches of a step, divided by the sum of ``weight``, is a mean over trained tokens.
    ``entropy``; ``kl_approx``, :math:`\log u - \log p`; ``clip_fraction``, tokens that the objective holds back, of
    which ``cap_fraction`` those that its ``ratio_cap`` does;
    ``rejected_fraction``, tokens that the correction gives factor 0; ``kl_reference``; ``logprob_gap_mean``, of
    :math:`|\log p - \log u|`. The largest of these is ``logprob_gap``: before the first update it measures trainer
    against engine.

    Ratios are taken against ``proximal_logprobs`` where the batch has them, else against the behaviour. A trained
    position whose behaviour is unknown (the mask ablation, a sampler's non-finite value) has ratio and correction 1.

    Args:
        scorer: gives log-probabilities and entropies.
        clip_low: of the default objective.
        clip_high: of the default objective.
        objective: default :class:`~algos.losses.objectives.Clip` with these bounds.
        kl: adds a penalty; the batch has ``reference_logprobs`` then.
        entropy_coef: of the entropy bonus.
        correction: rollout correction.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):  # type: ignore[misc]
        token_ids: str = "token_ids"
        trained: str = "trained"
        position_ids: str = "position_ids"
        sequence_ids: str = "sequence_ids"
        behaviour_logprobs: str = "behaviour_logprobs"
        proximal_logprobs: str = "proximal_logprobs"
        reference_logprobs: str = "reference_logprobs"
        advantages: str = "advantages"
        weights: str = "weights"
        selected: str = "selected"

    default_keys: ClassVar[type] = _AcceptedKeys
    out_keys: ClassVar[list[str]] = [
        "loss_objective",
        "entropy",
        "kl_approx",
        "clip_fraction",
        "cap_fraction",
        "rejected_fraction",
        "kl_reference",
        "logprob_gap_mean",
        "logprob_gap",
        "weight",
    ]

    def __init__(
        self,
        scorer: Scorer,
        *,
        clip_low: float = 0.2,
        clip_high: float = 0.28,
        objective: Objective | None = None,
        kl: KlPenalty | None = None,
        entropy_coef: float = 0.0,
        correction: Correction | None = None,
    ) -> None:
        super().__init__()
        self.scorer = scorer
        self.objective = objective or Clip(low=clip_low, high=clip_high)
        self.kl = kl
        self.entropy_coef = entropy_coef
        self.correction = correction or Correction()
        self.set_keys()

    @property
    def in_keys(self) -> list[str]:
        keys = self.tensor_keys
        needed = [keys.token_ids, keys.trained, keys.sequence_ids]
        needed += [keys.behaviour_logprobs, keys.advantages, keys.weights]
        needed += [keys.proximal_logprobs] * self.correction.needs_proximal
        needed += [keys.reference_logprobs] * (self.kl is not None)
        return needed + [keys.selected] * isinstance(self.objective, ClipCov | KlCov)

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        """There is no value estimator."""

    def forward(self, batch: TensorDictBase) -> TensorDict:
        for key in self.in_keys:
            if key not in batch:
                raise UsageError(f"the batch has no {key!r}, which this loss needs; fill it in before the step")
        keys = self.tensor_keys
        trained, weights = batch[keys.trained], self._at_trained(batch, keys.weights)
        logprobs, entropy = self.scorer(batch[keys.token_ids], trained, batch.get(keys.position_ids))  # [num_trained]
        tokens = self._tokens(batch, logprobs)
        terms = self.objective(tokens)
        factor = self.correction(tokens)
        loss = terms.loss * factor
        penalty = torch.zeros_like(loss)
        if self.kl is not None:
            penalty = self.kl(tokens, self._at_trained(batch, keys.reference_logprobs))
            loss = loss + self.kl.coef * penalty
        if self.entropy_coef:
            loss = loss - self.entropy_coef * entropy
        with torch.no_grad():
            # Where the batch knows no behaviour (tokens of a tool, dummies) there is nothing to compare with.
            known = self._at_trained(batch, keys.behaviour_logprobs).isfinite()
            gap = (logprobs - tokens.behaviour).masked_fill(~known, 0.0)
            means = {
                "entropy": entropy,
                "kl_approx": -gap,
                "clip_fraction": terms.held,
                "cap_fraction": torch.zeros_like(terms.held) if terms.capped is None else terms.capped,
                "rejected_fraction": factor == 0,
                "kl_reference": penalty,
                "logprob_gap_mean": gap.abs(),
            }
            out = {name: (value * weights).sum() for name, value in means.items()}
            out["logprob_gap"] = gap.abs().max() if len(gap) else gap.new_zeros(())
            out["weight"] = weights.sum()
        return TensorDict({"loss_objective": (loss * weights).sum(), **out}, batch_size=[])

    def _tokens(self, batch: TensorDictBase, logprobs: torch.Tensor) -> TrainedTokens:
        keys, current = self.tensor_keys, logprobs.detach()
        behaviour = self._at_trained(batch, keys.behaviour_logprobs)
        proximal = self._if_there(batch, keys.proximal_logprobs)
        if proximal is None:
            proximal = torch.where(behaviour.isfinite(), behaviour, current)
        return TrainedTokens(
            logprobs=logprobs,
            proximal=proximal,
            behaviour=torch.where(behaviour.isfinite(), behaviour, proximal),
            advantages=self._at_trained(batch, keys.advantages),
            sequence=self._at_trained(batch, keys.sequence_ids),
            selected=self._if_there(batch, keys.selected),
        )

    def _at_trained(self, batch: TensorDictBase, key: str) -> torch.Tensor:
        values: torch.Tensor = batch[key][batch[self.tensor_keys.trained]]
        return values

    def _if_there(self, batch: TensorDictBase, key: str) -> torch.Tensor | None:
        return None if batch.get(key) is None else self._at_trained(batch, key)
