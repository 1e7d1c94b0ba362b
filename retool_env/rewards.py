r"""Rewards: named, weighted parts that read a finished episode.

A part is a function of an :class:`~retool_env.record.EpisodeRecord` that returns a number, or ``None`` for *unscored*
(which drops the episode from training; it is never 0). The built-in parts read the verdict, whose verifier reads only
what the policy wrote. ``pm1`` is the paper's reward and the default.

``strategic`` gives :math:`correct \cdot \max(0, 1 - c \cdot calls)`: a right answer earns more the fewer programs it
needed, and a wrong one earns nothing however it came about. Charging failed answers as well teaches the policy never
to call at all, because early on most calls end in failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from retool_env.errors import UsageError, did_you_mean
from retool_env.record import EpisodeRecord, RewardPart

__all__ = ["REWARDS", "Reward", "accuracy", "make_reward", "pm1", "strategic"]

PartFunction = Callable[[EpisodeRecord], float | None]


def accuracy(record: EpisodeRecord) -> float | None:
    """1 for a right answer, 0 for any other."""
    return None if record.verdict is None else float(record.verdict.correct)


def pm1(record: EpisodeRecord) -> float | None:
    """+1 for a right answer, -1 for any other (2504.11536)."""
    return None if record.verdict is None else 2.0 * record.verdict.correct - 1.0


def strategic(record: EpisodeRecord, *, cost: float = 0.5) -> float | None:
    """A right answer is worth ``1 - cost`` per tool call, at least 0; a wrong one 0."""
    if record.verdict is None:
        return None
    return max(0.0, 1.0 - cost * record.num_tool_calls) if record.verdict.correct else 0.0


REWARDS: Mapping[str, PartFunction] = {"accuracy": accuracy, "pm1": pm1, "strategic": strategic}


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A weighted sum of named parts."""

    parts: tuple[tuple[str, PartFunction, float], ...]

    def score(self, record: EpisodeRecord) -> EpisodeRecord:
        """The record with its reward parts filled in."""
        scored = tuple(RewardPart(name=name, raw=part(record), weight=weight) for name, part, weight in self.parts)
        return replace(record, reward_parts=scored)


def make_reward(weights: Mapping[str, float] | str = "pm1", *, tool_cost: float = 0.5) -> Reward:
    """A reward from part names and weights; a bare name has weight 1.

    Raises:
        UsageError: no part, or an unknown name.
    """
    chosen = {weights: 1.0} if isinstance(weights, str) else dict(weights)
    if not chosen:
        raise UsageError(f"give at least one part; known: {', '.join(sorted(REWARDS))}")
    for name in chosen:
        if name not in REWARDS:
            raise UsageError(f"no reward part {name!r}{did_you_mean(name, REWARDS)}")
    functions = {**REWARDS, "strategic": lambda record: strategic(record, cost=tool_cost)}
    return Reward(parts=tuple((name, functions[name], float(weight)) for name, weight in chosen.items()))
