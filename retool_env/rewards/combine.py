"""Weighted sums of reward parts.

Purpose: from what a configuration says (names, weights, options) to an object that scores episodes.
Contract: plain values only, so a :class:`Reward` can be pickled and copied; a user's file is loaded where it is used.
A part's options are the keyword arguments of its function; one that does not exist is an error.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from retool_env.errors import UsageError, did_you_mean
from retool_env.record import EpisodeRecord, RewardPart
from retool_env.rewards.functions import load_reward_function
from retool_env.rewards.parts import REWARDS

__all__ = ["Part", "Reward", "Weights", "make_reward"]

Weights = Mapping[str, float | Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part: a built-in name, or where a user's function is; its weight and the options of a built-in one."""

    name: str
    weight: float = 1.0
    options: tuple[tuple[str, float], ...] = ()

    @property
    def reads_tool_results(self) -> bool:
        kind = REWARDS.get(self.name)
        return kind.reads_tool_results if kind else load_reward_function(self.name).reads_tool_results

    def score(self, record: EpisodeRecord) -> RewardPart:
        """The part's value for an episode."""
        kind = REWARDS.get(self.name)
        if kind:
            raw = kind.function(record, **dict(self.options))
        else:
            raw = None if record.outcome.failed else load_reward_function(self.name).score(record)
        return RewardPart(name=self.name, raw=raw, weight=self.weight, reads_tool_results=self.reads_tool_results)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A weighted sum of named parts."""

    parts: tuple[Part, ...]

    def score(self, record: EpisodeRecord) -> EpisodeRecord:
        """The record with its reward parts filled in."""
        return replace(record, reward_parts=tuple(part.score(record) for part in self.parts))


def make_reward(weights: Weights | str = "pm1", *, tool_cost: float = 0.5) -> Reward:
    """A reward from part names and weights; a bare name has weight 1.

    >>> reward = make_reward({"pm1": 1.0, "overlong": {"weight": 0.5, "buffer": 2048}})
    >>> [(part.name, part.weight, part.options) for part in reward.parts]
    [('pm1', 1.0, ()), ('overlong', 0.5, (('buffer', 2048.0),))]

    Args:
        weights: ``"pm1"``, ``{"pm1": 1.0, "format": 0.1}``, ``{"overlong": {"weight": 1.0, "buffer": 2048}}``, or with
            the path of a user's file or the name of a module in place of a part's name.
        tool_cost: the ``cost`` of ``strategic`` where its options do not say it.

    Raises:
        UsageError: no part, an unknown name or option, a value that is no finite number, or a file that cannot be
            loaded.
    """
    chosen: Weights = {weights: 1.0} if isinstance(weights, str) else weights
    if not chosen:
        raise UsageError(f"give at least one part; known: {', '.join(sorted(REWARDS))}")
    return Reward(parts=tuple(_part(name, settings, tool_cost) for name, settings in chosen.items()))


def _part(name: str, settings: float | Mapping[str, float], tool_cost: float) -> Part:
    options = dict(settings) if isinstance(settings, Mapping) else {"weight": settings}
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"reward part {name!r}: {key}={value!r} is not a finite number")
    weight = float(options.pop("weight", 1.0))
    if name not in REWARDS:
        load_reward_function(name)
        known: list[str] = []
    else:
        known = [key for key in inspect.signature(REWARDS[name].function).parameters if key != "record"]
        options = {"cost": tool_cost, **options} if name == "strategic" else options
    for key in options:
        if key not in known:
            raise UsageError(f"reward part {name!r} has no option {key!r}{did_you_mean(key, [*known, 'weight'])}")
    if name == "overlong" and options.get("buffer", 1.0) <= 0:
        raise UsageError(f"reward part 'overlong': buffer={options['buffer']!r} must be above 0")
    return Part(name=name, weight=weight, options=tuple((key, float(value)) for key, value in options.items()))
