"""Episodes as lists of messages, and lists of messages as episodes.

Purpose: reward functions of the guides read messages, reward parts read records; each may be used for the other.
Contract: an assistant message for each turn, followed by a tool message (``name``, ``content``) for each of its calls.
What messages do not say is left at its neutral value: no token counts, and every call counts as one that ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.record import CallRecord, EpisodeRecord
from retool_env.verifier import Verdict

__all__ = ["messages_of", "record_of"]

Completion = str | Sequence[Mapping[str, object]]


def messages_of(record: EpisodeRecord) -> list[dict[str, str]]:
    """The turns and tool results of an episode, as messages."""
    messages: list[dict[str, str]] = []
    for number, text in enumerate(record.turns):
        messages.append({"role": "assistant", "content": text})
        messages += [
            {"role": "tool", "name": call.name, "content": call.text} for call in record.calls if call.turn == number
        ]
    return messages


def record_of(completion: Completion, gold: str, verdict: Verdict, columns: Mapping[str, str]) -> EpisodeRecord:
    """A conversation as an episode; an ``outage`` of the verifier makes it one that infrastructure ended."""
    messages = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
    turns = tuple(str(message.get("content") or "") for message in messages if message.get("role") == "assistant")
    outage = verdict.reason == "outage"
    outcome = Outcome.VERIFIER_OUTAGE if outage else Outcome.ANSWERED if verdict.answered else Outcome.NO_ANSWER
    return EpisodeRecord(
        problem=Problem(id=columns.get("id") or "completion", prompt="-", answer=gold, metadata=dict(columns)),
        outcome=outcome,
        turns=turns,
        calls=tuple(_calls(messages)),
        verdict=None if outage else verdict,
        num_action_tokens=0,
    )


def _calls(messages: Sequence[Mapping[str, object]]) -> Iterator[CallRecord]:
    turn, asked = -1, list[str]()
    for message in messages:
        if message.get("role") == "assistant":
            turn, asked = turn + 1, _asked_for(message)
        elif message.get("role") == "tool":
            name = message.get("name") or (asked.pop(0) if asked else "")
            text = str(message.get("content") or "")
            yield CallRecord(turn=max(turn, 0), name=str(name), code="", status=ToolStatus.OK, text=text)


def _asked_for(message: Mapping[str, object]) -> list[str]:
    """The names in ``tool_calls``, in the order of the calls."""
    calls = message.get("tool_calls")
    called = [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions = [call.get("function", call) for call in called]
    return [str(function.get("name", "")) for function in functions if isinstance(function, dict)]
