"""What an environment knows about a finished episode: everything but the log-probabilities.

Rewards read this. A :class:`~retool_env.trajectory.Trajectory` is the same with the policy's side joined to it by the
recorder; the split exists because ``env.step`` has to return the reward before anyone outside of the environment can
say what the log-probabilities were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.verifier.verdict import Verdict

__all__ = ["CallRecord", "EpisodeRecord", "RewardPart"]


@dataclass(frozen=True, kw_only=True)
class CallRecord:
    """One tool call: what was run, how it ended, what came back. The seconds are time fields.

    Attributes:
        arguments: those beside ``code``, as the policy wrote them.
        span: where the call stands in its turn's text, in characters.
    """

    turn: int
    name: str
    code: str
    status: ToolStatus
    text: str
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class RewardPart:
    """One named part of a reward.

    Attributes:
        name: which part.
        raw: its value; ``None`` when the part is unscored, which is never 0.
        weight: its factor in the sum.
        reads_tool_results: it depends on text that the policy did not write.
    """

    name: str
    raw: float | None
    weight: float
    reads_tool_results: bool = False

    @property
    def weighted(self) -> float | None:
        return None if self.raw is None else self.raw * self.weight


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """A finished episode, seen from the environment.

    Attributes:
        problem: what was asked.
        outcome: how it ended.
        turns: what the policy wrote, turn by turn.
        calls: every tool call, malformed ones included.
        verdict: the verifier's judgement; ``None`` when infrastructure ended the episode.
        num_action_tokens: tokens the policy sampled.
        reward_parts: filled in by the reward.
        ticket: number of the episode in its run, for rewards that change in the course of it.
        num_void_turns: turns with neither a call nor an answer.
        seconds: wall time from reset to outcome, waiting for the policy included; a time field, 0 when not measured.
    """

    problem: Problem
    outcome: Outcome
    turns: tuple[str, ...]
    calls: tuple[CallRecord, ...]
    verdict: Verdict | None
    num_action_tokens: int
    reward_parts: tuple[RewardPart, ...] = ()
    ticket: int = field(default=0, compare=False)
    num_void_turns: int = 0
    seconds: float = field(default=0.0, compare=False)

    @property
    def num_tool_calls(self) -> int:
        """Calls that reached a tool."""
        return sum(not call.status.invalid for call in self.calls)

    @property
    def num_tool_rounds(self) -> int:
        """Turns with a call that reached a tool."""
        return len({call.turn for call in self.calls if not call.status.invalid})

    @property
    def correct(self) -> bool:
        return self.verdict is not None and self.verdict.correct

    @property
    def reward(self) -> float | None:
        """Sum of the weighted parts; ``None`` when any part is unscored or infrastructure ended the episode."""
        if self.outcome.failed:
            return None
        parts = [part.weighted for part in self.reward_parts]
        return None if None in parts else sum(part for part in parts if part is not None)
