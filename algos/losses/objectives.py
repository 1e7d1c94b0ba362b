r"""What is maximised per token: the surrogates, as losses.

An objective is a function of :class:`~algos.tokens.TrainedTokens`. Below, :math:`\ell = \log p - \log o` is the log
ratio of the current to the proximal policy, :math:`r = \exp\ell`, and A the advantage. How terms are added up is not
decided here but in the weights of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol

import torch

from algos.tokens import LIMIT, TrainedTokens
from retool_env.errors import UsageError, did_you_mean

__all__ = [
    "OBJECTIVES",
    "Cispo",
    "Clip",
    "ClipCov",
    "Dppo",
    "KlCov",
    "Objective",
    "Sapo",
    "Terms",
    "check_aggregation",
    "make_objective",
]

Level = Literal["token", "sequence", "sequence_token"]


class Terms(NamedTuple):
    """Per trained token: the loss, whether the objective holds the token back, and whether ``ratio_cap`` does."""

    loss: torch.Tensor
    held: torch.Tensor
    capped: torch.Tensor | None = None


class Objective(Protocol):
    """A surrogate."""

    def __call__(self, tokens: TrainedTokens) -> Terms: ...


@dataclass(frozen=True, kw_only=True)
class Clip:
    r""":math:`-\min(r A, \mathrm{clip}(r, 1 - \epsilon_{lo}, 1 + \epsilon_{hi}) A)` (PPO, 1707.06347).

    Bounds that differ are clip-higher (DAPO, 2503.14476). The ratio may be that of the whole sequence (GSPO,
    2507.18071): :math:`s = \exp(\mathrm{mean}_t \ell_t)`; as ``sequence_token`` it has the value of s and the gradient
    of the token's own ratio (GSPO-token).

    ``ratio_cap`` ends the growth of the loss for a bad token that has become likelier, at :math:`-c A`. It is known as
    dual clip (1912.09729, c = 3) and as the two-sided bound delta (INTELLECT-2, 2505.07291, 4): above the clip range
    the two are the same function.
    """

    low: float = 0.2
    high: float = 0.28
    ratio_cap: float | None = None
    level: Level = "token"

    def __post_init__(self) -> None:
        _check("low", self.low, 0 < self.low <= 1, "in (0, 1]")
        _check("high", self.high, self.high > 0, "> 0")
        cap = self.ratio_cap
        _check("ratio_cap", cap, cap is None or cap > 1 + self.high, f"> 1 + high = {1 + self.high:g}, or null")

    def __call__(self, tokens: TrainedTokens) -> Terms:
        ratio, advantages = self.log_ratio(tokens).exp(), tokens.advantages
        clipped = ratio.clamp(1 - self.low, 1 + self.high) * advantages
        plain = ratio.clamp(max=self.ratio_cap or math.inf) * advantages
        capped = ((ratio * advantages) < plain).detach()
        return Terms(-torch.minimum(plain, clipped), (clipped < plain).detach() | capped, capped)

    def log_ratio(self, tokens: TrainedTokens) -> torch.Tensor:
        """At the level of this objective, ``[num_trained]``."""
        if self.level == "token":
            return tokens.log_ratio
        of_sequence = tokens.sequence_mean(tokens.log_ratio)
        if self.level == "sequence":
            return of_sequence
        return of_sequence.detach() + tokens.logprobs - tokens.logprobs.detach()


@dataclass(frozen=True, kw_only=True)
class Cispo:
    r""":math:`-\mathrm{sg}(\min(r, c)) A \log p` (MiniMax-M1, 2506.13585): the weight is bounded, and every token keeps
    its gradient. The bound is on the ratio itself (5 in 2510.13786)."""

    max_ratio: float = 5.0

    def __post_init__(self) -> None:
        _check("max_ratio", self.max_ratio, self.max_ratio >= 1, ">= 1")

    def __call__(self, tokens: TrainedTokens) -> Terms:
        ratio = tokens.log_ratio.exp().detach()
        loss = -ratio.clamp(max=self.max_ratio) * tokens.advantages * tokens.logprobs
        return Terms(loss, ratio > self.max_ratio)


@dataclass(frozen=True, kw_only=True)
class Sapo:
    r""":math:`-\frac{4}{\tau}\sigma(\tau (r - 1)) A` (2511.20347): a gate that closes softly on both sides of ratio 1,
    with one temperature for good tokens and another for bad ones."""

    tau_positive: float = 1.0
    tau_negative: float = 1.05

    def __post_init__(self) -> None:
        _check("tau_positive", self.tau_positive, self.tau_positive > 0, "> 0")
        _check("tau_negative", self.tau_negative, self.tau_negative > 0, "> 0")

    def __call__(self, tokens: TrainedTokens) -> Terms:
        good = tokens.advantages > 0
        ratio = tokens.log_ratio.exp()
        tau = torch.full_like(ratio, self.tau_negative).masked_fill(good, self.tau_positive)
        gate = torch.sigmoid(tau * (ratio - 1))
        return Terms(-4 / tau * gate * tokens.advantages, torch.zeros_like(good))


@dataclass(frozen=True, kw_only=True)
class Dppo:
    r""":math:`-r A`, with the ratio against the behaviour, and nothing for a token whose *probability* has already
    moved by more than a threshold in the direction that the advantage pushes it (binary total variation, 2602.04879).
    """

    low: float = 0.2
    high: float = 0.2

    def __post_init__(self) -> None:
        _check("low", self.low, 0 < self.low <= 1, "in (0, 1]")
        _check("high", self.high, 0 < self.high <= 1, "in (0, 1]")

    def __call__(self, tokens: TrainedTokens) -> Terms:
        ratio = (tokens.logprobs - tokens.behaviour).clamp(-LIMIT, LIMIT).exp()
        moved = (tokens.logprobs.exp() - tokens.behaviour.exp()).detach()
        advantages = tokens.advantages
        held = ((advantages > 0) & (moved > self.high)) | ((advantages < 0) & (moved < -self.low))
        return Terms(-ratio * advantages * ~held, held)


@dataclass(frozen=True, kw_only=True)
class ClipCov:
    """:class:`Clip`, and no gradient for the tokens that :func:`~algos.losses.covariance.select_covariant` picked
    (Clip-Cov, 2505.22617). That holds from the first update on, unlike the clip itself."""

    low: float = 0.2
    high: float = 0.28

    def __post_init__(self) -> None:
        Clip(low=self.low, high=self.high)  # which knows what the bounds may be

    def __call__(self, tokens: TrainedTokens) -> Terms:
        terms = Clip(low=self.low, high=self.high)(tokens)
        return Terms(terms.loss * ~_selected(tokens), terms.held | _selected(tokens))


@dataclass(frozen=True, kw_only=True)
class KlCov:
    r""":math:`-r A`, plus :math:`k |\ell|` for the tokens that :func:`~algos.losses.covariance.select_covariant` picked
    (KL-Cov, 2505.22617).

    It is for several updates per step. Before the first of them :math:`\ell` is 0 but for rounding, whose sign is then
    the penalty's gradient; a configuration with one update alone is refused.
    """

    coef: float = 0.1

    def __post_init__(self) -> None:
        _check("coef", self.coef, self.coef >= 0, ">= 0")

    def __call__(self, tokens: TrainedTokens) -> Terms:
        selected = _selected(tokens)
        loss = -tokens.log_ratio.exp() * tokens.advantages + self.coef * tokens.log_ratio.abs() * selected
        return Terms(loss, selected)


OBJECTIVES: Mapping[str, tuple[Callable[..., Objective], Mapping[str, Any]]] = {
    "clip": (Clip, {}),
    "gspo": (Clip, {"low": 3e-4, "high": 4e-4, "level": "sequence"}),
    "gspo_token": (Clip, {"low": 3e-4, "high": 4e-4, "level": "sequence_token"}),
    "cispo": (Cispo, {}),
    "sapo": (Sapo, {}),
    "dppo": (Dppo, {}),
    "clip_cov": (ClipCov, {}),
    "kl_cov": (KlCov, {}),
}


def make_objective(name: str = "clip", **options: float | None) -> Objective:
    """The objective called ``name``, with its defaults changed by ``options``.

    Raises:
        UsageError: an unknown name or option, or a value out of range.
    """
    if name not in OBJECTIVES:
        raise UsageError(f"no objective {name!r}{did_you_mean(name, OBJECTIVES)}")
    kind, defaults = OBJECTIVES[name]
    known = [field.name for field in fields(kind) if field.name != "level"]  # type: ignore[arg-type]
    for key in options:
        if key not in known:
            raise UsageError(f"objective {name!r} has no option {key!r}{did_you_mean(key, known)}")
    return kind(**{**defaults, **options})


def check_aggregation(objective: Objective, aggregation: str) -> None:
    """Refuse what does not go together: a sequence's ratio belongs to the sequence, not to a mean over tokens.

    Raises:
        UsageError: the pair is one of these.
    """
    of_sequence = isinstance(objective, Clip) and objective.level != "token"
    if of_sequence and aggregation not in ("sequence_mean", "sequence_sum"):
        raise UsageError(
            f"aggregation={aggregation!r} weighs tokens, and gspo's ratio is one per sequence; "
            "set aggregation=sequence_mean"
        )


def _selected(tokens: TrainedTokens) -> torch.Tensor:
    assert tokens.selected is not None, "select_covariant goes before the step"
    return tokens.selected


def _check(name: str, value: float | None, good: bool, expected: str) -> None:
    if not good:
        raise UsageError(f"objective option {name}={value}: expected {expected}")
