r"""The distance to a reference policy f, estimated per token from samples: :math:`d = \log p - \log f`.

============  ==============================================  =======================================================
estimator     per token                                       as a loss
============  ==============================================  =======================================================
k1            :math:`d`                                       gradient of mean zero: no penalty at all
k2            :math:`d^2/2`                                   the gradient of the reverse KL, on policy
k3            :math:`e^{-d} - 1 + d`                          always positive; its gradient is that of the forward KL
k3_unbiased   :math:`\frac{p}{u}(e^{-d} - 1 + d)`             the gradient of the reverse KL, off policy too
                                                              (2512.02556)
============  ==============================================  =======================================================

(http://joschu.net/blog/kl-approx.html.) In the *reward* it is k1, on trained tokens only; see
``kl_coef`` of :class:`algos.advantages.Episodes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from algos.choices import KlEstimator
from algos.tokens import LIMIT, TrainedTokens
from retool_env.errors import UsageError, did_you_mean

__all__ = ["KL_ESTIMATORS", "KlPenalty"]

KL_ESTIMATORS: tuple[str, ...] = get_args(KlEstimator)


@dataclass(frozen=True, kw_only=True)
class KlPenalty:
    """A KL term of the loss."""

    coef: float
    estimator: str = "k3_unbiased"

    def __post_init__(self) -> None:
        if self.estimator not in KL_ESTIMATORS:
            raise UsageError(f"no KL estimator {self.estimator!r}{did_you_mean(self.estimator, KL_ESTIMATORS)}")
        if self.coef < 0:
            raise UsageError(f"KL coefficient {self.coef}: expected >= 0")

    def __call__(self, tokens: TrainedTokens, reference: torch.Tensor) -> torch.Tensor:
        """Per trained token, without the coefficient.

        Args:
            reference: log-probabilities of the reference policy, ``[num_trained]``.
        """
        gap = (tokens.logprobs - reference).clamp(-LIMIT, LIMIT)
        if self.estimator == "k1":
            return gap
        if self.estimator == "k2":
            return gap.square() / 2
        k3 = torch.expm1(-gap) + gap
        if self.estimator == "k3":
            return k3
        return (tokens.logprobs - tokens.behaviour).clamp(-LIMIT, LIMIT).exp() * k3
