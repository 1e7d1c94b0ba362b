"""The loss of the cold start: negative log-likelihood of the trained tokens, through the same scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.objectives import LossModule

from algos.scorer import Scorer

__all__ = ["SftLoss"]


class SftLoss(LossModule):  # type: ignore[misc]
    """Weighted sum of ``-log p`` over the trained positions of a batch of :func:`algos.batch.micro_batches`.

    Returns scalars: ``loss_objective`` to be minimised; ``entropy`` and ``weight``, sums as in
    :class:`~algos.losses.policy.PolicyLoss`.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):  # type: ignore[misc]
        token_ids: str = "token_ids"
        trained: str = "trained"
        position_ids: str = "position_ids"
        weights: str = "weights"

    default_keys: ClassVar[type] = _AcceptedKeys
    out_keys: ClassVar[list[str]] = ["loss_objective", "entropy", "weight"]

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer
        self.set_keys()

    @property
    def in_keys(self) -> list[str]:
        return [self.tensor_keys.token_ids, self.tensor_keys.trained, self.tensor_keys.weights]

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        """There is no value estimator."""

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys = self.tensor_keys
        trained = batch[keys.trained]
        weights = batch[keys.weights][trained]
        logprobs, entropy = self.scorer(batch[keys.token_ids], trained, batch.get(keys.position_ids))
        with torch.no_grad():
            metrics = {"entropy": (entropy * weights).sum(), "weight": weights.sum()}
        return TensorDict({"loss_objective": -(logprobs * weights).sum(), **metrics}, batch_size=[])
