"""Losses as TorchRL modules over the batches of :mod:`algos.batch`.

* :class:`PolicyLoss`: what :func:`make_objective` gives, times a rollout :class:`~algos.correction.Correction`, plus
  :class:`KlPenalty` and entropy bonus.
* :class:`SftLoss`: the cold start.
* :func:`select_covariant` goes before a step with ``clip_cov`` or ``kl_cov``.
* The critic's loss is :class:`algos.value.ValueLoss`.

Contract: every loss is a weighted sum over trained tokens; the weights hold the denominator of the optimizer step.
Left out: advantages (:mod:`algos.advantages`) and weights (:mod:`algos.batch`).
"""

from __future__ import annotations

from algos.losses.covariance import select_covariant
from algos.losses.kl import KL_ESTIMATORS, KlPenalty
from algos.losses.objectives import (
    OBJECTIVES,
    Cispo,
    Clip,
    ClipCov,
    Dppo,
    KlCov,
    Objective,
    Sapo,
    check_aggregation,
    make_objective,
)
from algos.losses.policy import PolicyLoss
from algos.losses.sft import SftLoss

__all__ = [
    "KL_ESTIMATORS",
    "OBJECTIVES",
    "Cispo",
    "Clip",
    "ClipCov",
    "Dppo",
    "KlCov",
    "KlPenalty",
    "Objective",
    "PolicyLoss",
    "Sapo",
    "SftLoss",
    "check_aggregation",
    "make_objective",
    "select_covariant",
]
