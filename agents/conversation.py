"""An episode as a conversation, for agents that read messages instead of ids.

The prompt's messages come first, then each assistant turn as the policy wrote it and what came back: one ``tool``
message for each call of the turn, in order, or one ``user`` message for a void turn. It is a view of the same episode:
tool output is cut as it is for the token view, and nothing here is ever encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.episode import VOID_NOTE, Episode
from retool_env.problems import Message
from retool_env.tools import ToolSpec

__all__ = ["conversation"]


def conversation(episode: Episode, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
    """What has been said up to the turn that is to come.

    Args:
        tools: those of the episode.
    """
    messages = list(episode.dialect.build_prompt(episode.problem, tools))
    for turn, text in enumerate(episode.turn_texts):
        messages.append(Message(role="assistant", content=text))
        results = episode.rounds[turn]
        messages += [Message(role="tool", content=episode.fit(result.text)) for result in results]
        if not results:
            messages.append(Message(role="user", content=VOID_NOTE))
    return tuple(messages)
