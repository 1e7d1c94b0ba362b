"""What an environment writes down of an episode that has ended, before any reward."""

from __future__ import annotations

from retool_env.episode import Episode
from retool_env.feeder import Ticket
from retool_env.outcome import Outcome
from retool_env.record import CallRecord, EpisodeRecord
from retool_env.tools import ToolResult
from retool_env.verifier import Verdict

__all__ = ["unscored_record"]


def unscored_record(
    episode: Episode, ticket: Ticket, *, outcome: Outcome, verdict: Verdict | None, seconds: float
) -> EpisodeRecord:
    """The facts; ``seconds`` is the wall time since the episode began."""
    return EpisodeRecord(
        problem=ticket.problem,
        outcome=outcome,
        turns=tuple(episode.turn_texts),
        calls=tuple(_call_record(turn, result) for turn, row in enumerate(episode.rounds) for result in row),
        verdict=verdict,
        num_action_tokens=episode.num_action_tokens,
        ticket=ticket.index,
        num_void_turns=episode.num_void_turns,
        seconds=round(seconds, 4),
    )


def _call_record(turn: int, result: ToolResult) -> CallRecord:
    return CallRecord(
        turn=turn,
        name=result.call.name,
        code=result.call.code,
        arguments={name: value for name, value in result.call.arguments.items() if name != "code"},
        span=result.call.span,
        status=result.status,
        text=result.text,
        cpu_seconds=result.cpu_seconds,
        wall_seconds=result.wall_seconds,
    )
