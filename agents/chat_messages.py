"""Between an episode's conversation and what a chat endpoint says: structured tool calls, both ways.

In an episode a call is text, in the words of the dialect. An endpoint has fields for it. Going out, a turn whose calls
are all well formed becomes an assistant message with ``tool_calls`` and one ``tool`` message for each result; any other
turn stays text, and its results become messages of the user. Coming in, ``Dialect.write`` turns calls into text; those
of a turn that was cut by length stay as they were written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from retool_env.dialects import Dialect
from retool_env.dialects.json_calls import BadJsonError, decode_whole, encode
from retool_env.errors import UsageError
from retool_env.problems import Message
from retool_env.tools import ToolCall

__all__ = ["as_calls", "chat_messages", "cut_turn", "with_calls", "with_stop"]

_WRITTEN: Final = "arguments"


def chat_messages(messages: Sequence[Message], dialect: Dialect, *, structured: bool) -> list[JsonValue]:
    """``messages`` as the endpoint expects them.

    Args:
        structured: show calls as ``tool_calls``.
    """
    return list(_messages(messages, dialect, structured))


def _messages(messages: Sequence[Message], dialect: Dialect, structured: bool) -> Iterator[JsonValue]:
    pending: list[JsonValue] = []
    for number, message in enumerate(messages):
        if message.role == "assistant":
            calls = dialect.parse(message.content).calls if structured else ()
            well_formed = bool(calls) and not any(call.problem for call in calls)
            pending = [f"call_{number}_{k}" for k in range(len(calls))] if well_formed else []
            yield _assistant(message.content, calls, pending) if well_formed else message.model_dump()
        elif message.role != "tool":
            yield message.model_dump()
        elif pending:
            yield {"role": "tool", "tool_call_id": pending.pop(0), "content": message.content}
        else:
            yield {"role": "user", "content": f"Output:\n{message.content}"}


def _assistant(text: str, calls: Sequence[ToolCall], names: Sequence[JsonValue]) -> JsonValue:
    written: list[JsonValue] = [
        {"id": name, "type": "function", "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))}}
        for name, call in zip(names, calls, strict=True)
    ]
    return {"role": "assistant", "content": text[: calls[0].span[0]], "tool_calls": written}


def as_calls(functions: Iterable[tuple[str, str]]) -> list[ToolCall]:
    """Calls from names and JSON arguments, which are read as the dialects read theirs. One whose arguments are no JSON
    object has a ``problem``, and what was written as its only argument, for :func:`with_calls` to show."""
    return [_as_call(name, written) for name, written in functions]


def _as_call(name: str, written: str) -> ToolCall:
    try:
        arguments = decode_whole(written or "{}")
    except BadJsonError as error:
        return ToolCall(name=name, arguments={_WRITTEN: written}, problem=str(error))
    if isinstance(arguments, dict):
        return ToolCall(name=name, arguments=arguments)
    return ToolCall(name=name, arguments={_WRITTEN: written}, problem="no object")


def with_calls(text: str, calls: Sequence[ToolCall], dialect: Dialect) -> str:
    """The turn in the dialect's words. Of calls that it cannot write (several, or of an unknown tool, where it knows
    one program only) the first that it can is kept: an endpoint's mistake must not end the run.

    A turn is text, so a call with a ``problem`` has to be one that the dialect reads as malformed, and what the model
    wrote has to stand in it. Where arguments are written as JSON, they become a string with what was written in it, as
    they were in the endpoint's answer, and the dialect says what is wrong with that. Where a call is a program, what
    was written stands in front of an empty one: as the program itself it would be run, and some of it is Python.
    """
    for chosen in (calls, *([call] for call in calls)):
        try:
            return _written(text, chosen, dialect)
        except UsageError:
            continue
    return text


def _written(text: str, calls: Sequence[ToolCall], dialect: Dialect) -> str:
    turn = dialect.write(text, calls)
    said = [_said(call) for call in calls if call.arguments]
    if said and turn == dialect.write(text, [replace(call, arguments={}) for call in calls]):
        return _before_nothing(text, "\n".join(said), calls, dialect)
    for call in calls:
        if call.problem:
            start = len(text)
            turn = turn[:start] + turn[start:].replace(encode(dict(call.arguments)), encode(_said(call)), 1)
    return turn


def _said(call: ToolCall) -> str:
    """The arguments as the model wrote them, or as good as."""
    return str(call.arguments[_WRITTEN]) if call.problem else encode(dict(call.arguments))


def _before_nothing(text: str, said: str, calls: Sequence[ToolCall], dialect: Dialect) -> str:
    """The turn of a dialect that has no words for what was ``said``. Marks in it are broken up if the dialect would
    read another call for them, or an earlier end of the turn."""
    turn = dialect.write(f"{text}{said}\n", calls)
    read = dialect.parse(turn).calls
    if read and all(call.problem for call in read) and read[-1].span[1] == len(turn):
        return turn
    broken = said.replace("<", "< ").replace("```", "` ` `")
    return dialect.write(f"{text}{broken}\n", calls)


def cut_turn(text: str, functions: Iterable[tuple[str, str]], dialect: Dialect) -> str:
    """A turn that was cut by length, perhaps in the middle of a call.

    Nothing of it is run, so the arguments follow the text as they were written, and only up to where they would end
    the turn in the dialect's words. Where nothing was written a space stands for the turn: the end-of-turn token, which
    is what an empty turn becomes, would say that the model had ended it.
    """
    said = "\n".join(arguments for _, arguments in functions)
    ends = [said.find(stop) for stop in dialect.stop if stop in said]
    return "\n".join(part for part in (text, said[: min(ends, default=len(said))]) if part) or " "


def with_stop(text: str, matched: JsonValue, dialect: Dialect) -> str:
    """The text with the stop string that ended it, which endpoints leave out.

    Where the endpoint does not say what it was (``matched`` is ``None``), it is put back if the text has no answer and
    becomes a well-formed call by it. A number is the id of the end token: the model ended the turn itself, and what it
    left open is its own mistake.
    """
    if isinstance(matched, str):
        return text if matched in text or matched not in dialect.stop else text + matched
    if matched is not None:
        return text
    turn = dialect.parse(text)
    if turn.stopped or turn.answer:
        return text
    for stop in dialect.stop:
        calls = dialect.parse(text + stop).calls
        if calls and not any(call.problem for call in calls):
            return text + stop
    return text
