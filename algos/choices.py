"""Names that configurations and code share, kept apart so that a configuration can be read without torch."""

from __future__ import annotations

from typing import Literal

__all__ = ["Aggregation", "KlEstimator", "Layout"]

Aggregation = Literal["token_mean", "sequence_mean", "sequence_sum", "prompt_mean"]
KlEstimator = Literal["k1", "k2", "k3", "k3_unbiased"]
Layout = Literal["sorted", "packed", "shared"]
