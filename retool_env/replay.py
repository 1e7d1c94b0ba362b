"""Play a stored episode again against its recorded tool outputs: nothing is sampled and nothing is executed.

The sampled ids are fed to a fresh :class:`~retool_env.episode.Episode`, which parses the calls and appends what the
tools said then. The result must have exactly the stored ids; anything else means that prompt, dialect, tokenizer,
limits or code are no longer those of the recording, and the difference says where it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retool_env.dialects import Dialect
from retool_env.episode import Episode, EpisodeLimits
from retool_env.outcome import Outcome
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolCall, ToolResult, ToolSpec
from retool_env.trajectory import Trajectory

__all__ = ["Difference", "replay_trajectory"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a replay leaves its recording: ``token`` is the first differing position, ``what`` says it in words."""

    ticket: int
    token: int
    what: str


def replay_trajectory(
    trajectory: Trajectory,
    *,
    dialect: Dialect,
    tokenizer: Tokenizer,
    limits: EpisodeLimits,
    tools: Sequence[ToolSpec] | None = None,
) -> Difference | None:
    """``None`` when the ids, the mask and the outcome come out as they were stored."""
    stored, record = trajectory.transcript, trajectory.record
    episode = Episode(record.problem, dialect=dialect, tokenizer=tokenizer, limits=limits, tools=tools)
    for number, (span, text) in enumerate(
        zip((s for s in stored.spans if s.role == "assistant"), record.turns, strict=True)
    ):
        if episode.token_ids != stored.token_ids[: span.start].tolist():
            return _difference(trajectory, episode)
        if episode.outcome is not None:
            return _at(trajectory, span.start, f"turn {number + 1} comes after the end ({episode.outcome})")
        calls = episode.act(stored.token_ids[span.start : span.end].tolist())
        if episode.turn_texts[-1] != text:
            return _at(trajectory, span.start, f"turn {number + 1} decodes to another text")
        if calls and (problem := _answer(episode, calls, trajectory, number)):
            return _at(trajectory, span.end, problem)
    if episode.token_ids != stored.token_ids.tolist():
        return _difference(trajectory, episode)
    if episode.outcome not in (record.outcome, None) and not record.outcome.failed:
        return _at(trajectory, len(stored), f"it ends with {episode.outcome}, it was {record.outcome}")
    return None


def _answer(episode: Episode, calls: tuple[ToolCall, ...], trajectory: Trajectory, turn: int) -> str:
    """Give the recorded results; what does not fit, in words."""
    recorded = [call for call in trajectory.record.calls if call.turn == turn]
    if trajectory.record.outcome is Outcome.SANDBOX_OUTAGE and turn == len(trajectory.record.turns) - 1:
        episode.fail(Outcome.SANDBOX_OUTAGE)
        return ""
    if [(call.name, call.code) for call in calls] != [(call.name, call.code) for call in recorded]:
        return f"turn {turn + 1} makes {len(calls)} calls, not the {len(recorded)} that were recorded"
    episode.observe(
        [ToolResult(call=call, status=was.status, text=was.text) for call, was in zip(calls, recorded, strict=True)]
    )
    return ""


def _difference(trajectory: Trajectory, episode: Episode) -> Difference:
    stored, now = trajectory.transcript.token_ids.tolist(), episode.token_ids
    position = next(
        (k for k, (a, b) in enumerate(zip(stored, now, strict=False)) if a != b), min(len(stored), len(now))
    )
    role = next((s.role for s in trajectory.transcript.spans if s.start <= position < s.end), "end")
    return _at(trajectory, position, f"the ids differ, in a part of kind {role!r}")


def _at(trajectory: Trajectory, token: int, what: str) -> Difference:
    return Difference(ticket=trajectory.ticket, token=token, what=what)
