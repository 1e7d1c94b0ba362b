"""Recorded conversations and how they become token sequences: by driving an episode, and in no other way.

A recorded turn is what an assistant wrote and, when it called a tool, what came back. :func:`replay` feeds both to an
:class:`~retool_env.episode.Episode`, so an SFT sample has exactly the ids, mask and spans that a rollout of the same
text would have had. A recording that does not fit the episode (a turn that calls without a result, a result without
a call) is an error that names the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retool_env.dialects import Dialect
from retool_env.episode import Episode, EpisodeLimits
from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolResult, ToolSpec

__all__ = ["RecordedTurn", "Recording", "replay"]


@dataclass(frozen=True, kw_only=True)
class RecordedTurn:
    """What the assistant wrote, and the outputs of its calls (none for a final turn)."""

    text: str
    outputs: tuple[str, ...] = ()
    status: ToolStatus = ToolStatus.OK


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A conversation about one problem."""

    problem: Problem
    turns: tuple[RecordedTurn, ...]


def replay(
    recording: Recording,
    *,
    dialect: Dialect,
    tokenizer: Tokenizer,
    limits: EpisodeLimits,
    tools: Sequence[ToolSpec] | None = None,
) -> Episode:
    """The episode that the recording describes.

    Args:
        tools: what the prompt offers; ``None`` for the code interpreter.

    Raises:
        UsageError: outputs and calls do not match, or the conversation does not fit the limits.
    """
    episode = Episode(recording.problem, dialect=dialect, tokenizer=tokenizer, limits=limits, tools=tools)
    for number, turn in enumerate(recording.turns):
        where = f"recording of {recording.problem.id!r}, turn {number}"
        if episode.outcome is not None:
            raise UsageError(f"{where}: the episode already ended ({episode.outcome}); delete the turns behind it")
        ids = tokenizer.encode(turn.text)
        # A turn ends in a stop string of the dialect, or in the end-of-turn token.
        calls = episode.act(ids if dialect.parse(turn.text).stopped else [*ids, tokenizer.eos_id])
        if len(calls) != len(turn.outputs):
            raise UsageError(f"{where}: {len(calls)} calls but {len(turn.outputs)} recorded outputs")
        if calls:
            pairs = zip(calls, turn.outputs, strict=True)
            episode.observe([ToolResult(call=call, status=turn.status, text=text) for call, text in pairs])
    if episode.outcome is None or not episode.outcome.terminated:
        raise UsageError(f"recording of {recording.problem.id!r}: ends with {_describe(episode)}, not with an answer")
    return episode


def _describe(episode: Episode) -> Sequence[str] | str:
    return "a tool result" if episode.outcome is None else f"outcome {episode.outcome}"
