r"""Rollout correction: what to do about samples that another policy drew than the one the trainer starts from.

The engine's policy u and the trainer's o at the start of the step differ through kernels, precision and staleness. With
:math:`w = o/u` per token, each rule multiplies the loss of a token by a constant without gradient:

====================  ============================================================  ==============================
rule                  factor                                                        source
====================  ============================================================  ==============================
``weight_cap`` C      :math:`\min(w, C)`                                            truncated importance sampling
                                                                                    (TIS), C = 2; C = inf,
                                                                                    decoupled PPO: 2110.00641
``token_band``        0 where w leaves the band                                     with ``weight_cap`` at its upper
                                                                                    end: MIS, icepop (0.5 to 5)
``sequence_cap`` C    0 where :math:`\exp\sum\log w > C`                            sequence mask (trl, C = 3)
``geometric_band``    0 where :math:`\exp\,\mathrm{mean}\log w` leaves the band     geometric mask (0.99 to 1.01)
``off_policy_gap`` d  0 where A < 0 and :math:`\mathrm{mean}(\log u - \log p) > d`  2512.02556; p is the current policy
====================  ============================================================  ==============================

Sums and means run over the trained tokens of a sequence. All but the last compare with o, so the trainer's log-probs
at the start of the step must be there (``proximal_logprobs``): with ratios taken against u directly there is nothing
left to correct, and correcting all the same would count the ratio twice. Thresholds of ``off_policy_gap`` in the field
run from 1e-4 to 0.5 and are not comparable.

A rejected token keeps its place in the loss denominator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from algos.tokens import TrainedTokens
from retool_env.errors import UsageError

__all__ = ["Correction"]

Band = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The rules that are on; a factor is the product of theirs."""

    weight_cap: float | None = None
    token_band: Band | None = None
    sequence_cap: float | None = None
    geometric_band: Band | None = None
    off_policy_gap: float | None = None

    def __post_init__(self) -> None:
        for name in ("weight_cap", "sequence_cap", "off_policy_gap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"correction.{name}={value}: expected a number > 0")
        for name in ("token_band", "geometric_band"):
            band = getattr(self, name)
            if band is not None and not 0 <= band[0] < 1 < band[1]:
                raise UsageError(f"correction.{name}={list(band)}: expected two numbers with 1 between them")

    @property
    def needs_proximal(self) -> bool:
        """Whether any rule compares with the trainer's policy at the start of the step."""
        rules = (self.weight_cap, self.token_band, self.sequence_cap, self.geometric_band)
        return any(rule is not None for rule in rules)

    @torch.no_grad()
    def __call__(self, tokens: TrainedTokens) -> torch.Tensor:
        """The factor of each trained token, ``[num_trained]``."""
        log_w = tokens.log_weight
        factor = torch.ones_like(log_w)
        if self.weight_cap is not None:
            factor = log_w.exp().clamp(max=self.weight_cap)
        if self.token_band is not None:
            factor = factor * _inside(log_w, self.token_band)
        if self.sequence_cap is not None:
            factor = factor * (tokens.sequence_sum(log_w) <= math.log(self.sequence_cap))
        if self.geometric_band is not None:
            factor = factor * _inside(tokens.sequence_mean(log_w), self.geometric_band)
        if self.off_policy_gap is not None:
            gap = tokens.sequence_mean(tokens.behaviour - tokens.logprobs)
            factor = factor * ~((tokens.advantages < 0) & (gap > self.off_policy_gap))
        return factor


def _inside(log_w: torch.Tensor, band: Band) -> torch.Tensor:
    ratio = log_w.exp()
    return (ratio >= band[0]) & (ratio <= band[1])
