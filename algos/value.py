r"""The critic of PPO: what return a trained token is expected to lead to.

The value :math:`V_t` is of the state *before* token t, read from the hidden state at ``t - 1`` like the token's
log-probability, at trained positions only: what a tool wrote has no value and is no step.

.. math::
    L = \tfrac12 \sum_t w_t \max\big((V_t - G_t)^2,\; (\mathrm{clip}(V_t, V^{old}_t \pm \epsilon) - G_t)^2\big)

with the returns G of :class:`algos.advantages.Credit` (1707.06347 and the code that came with it; unclipped with
:math:`\epsilon` = ``None``).

A *shared* critic is a head on the policy's own backbone: its loss trains the policy's weights as well. It saves the
memory of a second model, not its time, because the backbone runs once for each of the two losses.

Left out: the warm-up (steps that train the critic alone) and the critic's learning rate; both are the trainer's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torch.nn import functional as F
from torchrl.objectives import LossModule
from transformers import PreTrainedModel

from algos.batch import Sample
from algos.policy.parts import causal_lm
from algos.policy.prefixes import share_attention
from algos.policy.sharding import inside
from algos.scorer import read_states
from retool_env.errors import UsageError

__all__ = ["Critic", "ValueLoss", "explained_variance"]


class Critic(nn.Module):
    """A backbone with a scalar head that starts at zero.

    Args:
        model: the causal LM whose backbone is taken, or a peft model around it.
        shared: use that very backbone; otherwise a copy of it.
    """

    def __init__(self, model: nn.Module, *, shared: bool = False) -> None:
        super().__init__()
        inner = causal_lm(model)
        self.backbone: nn.Module = inner.base_model if shared else copy.deepcopy(inner.base_model)
        self._owner = (model if shared else self.backbone,)  # in a tuple: its head is no part of the critic
        weight = inner.get_output_embeddings().weight
        self.head = _ValueHead(weight.shape[1], 1, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._shares = False

    def forward(
        self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Values before the trained tokens, ``[num_trained]``, row-major; float32 at least. Arguments as a
        :class:`~algos.scorer.Scorer` takes them."""
        return inside(self._owner[0], self._values, token_ids, trained, position_ids)

    def share_prompts(self) -> None:
        """From now on, run what rows begin with in common once; see :mod:`algos.policy.prefixes`."""
        share_attention(cast(PreTrainedModel, self.backbone))
        self._shares = True

    def _values(
        self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        def read(hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.head(hidden)[:, 0],)

        return read_states(self.backbone, token_ids, trained, position_ids, read, share=self._shares)[0]


class _ValueHead(nn.Linear):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(torch.promote_types(hidden.dtype, self.weight.dtype), torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.to(dtype), self.weight.to(dtype), self.bias.to(dtype))


class ValueLoss(LossModule):  # type: ignore[misc]
    """Clipped squared error of the critic on a batch of :func:`algos.batch.micro_batches` with values and returns.

    Returns scalars: ``loss_objective`` to be minimised; as sums weighted like the loss, ``value``, ``clip_fraction``
    (where clipping decides) and ``weight``.

    Args:
        critic: gives values.
        clip: epsilon; ``None`` for none.
    """

    @dataclass
    class _AcceptedKeys(LossModule._AcceptedKeys):  # type: ignore[misc]
        token_ids: str = "token_ids"
        trained: str = "trained"
        position_ids: str = "position_ids"
        values: str = "values"
        returns: str = "returns"
        weights: str = "weights"

    default_keys: ClassVar[type] = _AcceptedKeys
    out_keys: ClassVar[list[str]] = ["loss_objective", "value", "clip_fraction", "weight"]

    def __init__(self, critic: Critic, *, clip: float | None = 0.2) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise UsageError(f"value clip {clip}: expected a number > 0, or null")
        self.critic = critic
        self.clip = clip
        self.set_keys()

    @property
    def in_keys(self) -> list[str]:
        keys = self.tensor_keys
        return [keys.token_ids, keys.trained, keys.values, keys.returns, keys.weights]

    def _forward_value_estimator_keys(self, **kwargs: object) -> None:
        """Values are estimated for a whole step before it is cut, by :mod:`algos.advantages`."""

    def forward(self, batch: TensorDictBase) -> TensorDict:
        keys = self.tensor_keys
        trained = batch[keys.trained]
        values = self.critic(batch[keys.token_ids], trained, batch.get(keys.position_ids))
        returns, weights = batch[keys.returns][trained], batch[keys.weights][trained]
        errors = (values - returns).square()
        clipped_errors = errors
        if self.clip is not None:
            old = batch[keys.values][trained]
            clipped_errors = (values.clamp(old - self.clip, old + self.clip) - returns).square()
        loss = 0.5 * (torch.maximum(errors, clipped_errors) * weights).sum()
        with torch.no_grad():
            metrics = {
                "value": (values * weights).sum(),
                "clip_fraction": ((clipped_errors > errors) * weights).sum(),
                "weight": weights.sum(),
            }
        return TensorDict({"loss_objective": loss, **metrics}, batch_size=[])


def explained_variance(samples: Sequence[Sample]) -> float:
    """``1 - var(returns - values) / var(returns)`` over all trained tokens; 1 is perfect, 0 no better than a constant.

    0 as well when the returns do not vary, which leaves nothing to explain.
    """
    returns = np.concatenate([np.asarray(s.returns, dtype=np.float64)[s.trained] for s in samples])
    values = np.concatenate([np.asarray(s.values, dtype=np.float64)[s.trained] for s in samples])
    if len(returns) == 0 or np.ptp(returns) == 0:
        return 0.0
    return float(1.0 - (returns - values).var() / returns.var())
