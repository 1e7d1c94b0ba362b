r"""Native tool calls of the Qwen2.5 and Qwen3 families, through the tokenizer's own chat template.

    ... <tool_call>
    {"name": "code_interpreter", "arguments": {"code": "print(6 * 7)"}}
    </tool_call><|im_end|>
    <|im_start|>user
    <tool_response>
    42
    </tool_response><|im_end|>
    <|im_start|>assistant
    ... \boxed{42}<|im_end|>

A turn may hold several calls and ends with the end-of-turn token alone. The template describes the tools and writes the
results; here is only what stands between the tags. A call that cannot be read is answered with what is wrong with it,
and its siblings run. What is mended instead is written down in ``json_calls``; a closing tag that was forgotten behind
a complete object is no mistake either.

Calls inside of a closed thought (``<think>...</think>``) are thoughts and are not run; a ``</think>`` in a string of a
call closes none. Not handled: the other formats that are called after models (Llama's, Mistral's, Qwen3-Coder's XML).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import JsonValue

from retool_env.dialects import Turn
from retool_env.dialects.json_calls import BadJsonError, decode_at, decode_whole, encode
from retool_env.dialects.prompting import with_instructions
from retool_env.outcome import ToolStatus
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools.base import ToolCall, ToolResult
from retool_env.tools.spec import ToolSpec
from retool_env.verifier import extract_answer

__all__ = ["HermesDialect"]

OPEN, CLOSE, END_THINK = "<tool_call>", "</tool_call>", "</think>"
_OWN_TAGS = re.compile(r"<(?=/?(?:tool_call|tool_response|think)>)")
_MAX_CALLS = 64
"""More are read as one bad call, so that a turn of nothing but tags costs no time."""

_MAX_CLOSERS = 4
"""A program may hold the closing tag in a string, so the first one need not be the end of the call."""

INSTRUCTIONS = """\
Solve the problem below step by step{tools}. When you are done, put the final answer inside \\boxed{{}}.

Problem:
"""


class HermesDialect:
    """``<tool_call>`` JSON and ``<tool_response>`` through the chat template."""

    name = "hermes"
    stop: tuple[str, ...] = ()
    chat_tools = True
    replies = True

    def __init__(self, *, instructions: bool = True) -> None:
        self.instructions = instructions

    def build_prompt(self, problem: Problem, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        hint = ", and call a tool whenever it helps" if tools else ""
        return with_instructions(problem, INSTRUCTIONS.format(tools=hint) if self.instructions else "")

    def parse(self, text: str) -> Turn:
        calls = tuple(_read_calls(text))
        return Turn(calls=calls, answer="" if calls else extract_answer(text).answer, stopped=False)

    def write(self, text: str, calls: Sequence[ToolCall]) -> str:
        bodies = [encode({"name": call.name, "arguments": dict(call.arguments)}) for call in calls]
        return "\n".join([*([text] if text else []), *(f"{OPEN}\n{body}\n{CLOSE}" for body in bodies)])

    def render(self, results: Sequence[ToolResult], *, stopped: bool, tokenizer: Tokenizer) -> str:
        return tokenizer.reply([Message(role="tool", content=_OWN_TAGS.sub("< ", r.text)) for r in results])


class _Read(NamedTuple):
    """The value of a call or what is wrong with it, where the call ends, and what of it stands behind the value."""

    value: JsonValue | BadJsonError
    end: int
    behind: str = ""


def _read_calls(text: str) -> Iterator[ToolCall]:
    position = _after_thoughts(text)
    for _ in range(_MAX_CALLS):
        start = text.find(OPEN, position)
        if start < 0:
            return
        value, position, _ = _read_value(text, start + len(OPEN))
        span = (start, position)
        if isinstance(value, BadJsonError):
            problem = f"Error: the tool call is no valid JSON ({value}); nothing was run."
            yield ToolCall(name="", problem=problem, span=span)
        else:
            yield _as_call(value, span)
    if (start := text.find(OPEN, position)) >= 0:
        problem = f"Error: a turn may have {_MAX_CALLS} calls; the others were not read."
        yield ToolCall(name="", problem=problem, span=(start, len(text)))


def _after_thoughts(text: str) -> int:
    """Where the last thought ends. What a call's own JSON holds ends none."""
    ends = [match.start() for match in re.finditer(END_THINK, text)]
    position = 0
    for _ in range(_MAX_CALLS if ends else 0):
        start = text.find(OPEN, position)
        if start < 0:
            break
        value, position, behind = _read_value(text, start + len(OPEN))
        if not isinstance(value, BadJsonError):
            quoted = text.count(END_THINK, start, position) - behind.count(END_THINK)
            first = bisect_left(ends, start)
            del ends[first : first + quoted]
    return max(ends, default=0)


def _read_value(text: str, start: int) -> _Read:
    """What stands between the tags."""
    first_error: BadJsonError | None = None
    closer = start
    for _ in range(_MAX_CLOSERS):
        closer = text.find(CLOSE, closer)
        if closer < 0:
            break
        try:
            return _Read(decode_whole(text[start:closer]), closer + len(CLOSE))
        except BadJsonError as error:
            first_error = first_error or error
        closer += len(CLOSE)
    opener, closer = text.find(OPEN, start), text.find(CLOSE, start)
    if 0 <= closer < (opener if opener >= 0 else len(text)):
        assert first_error, "a closing tag was tried"
        return _Read(first_error, closer + len(CLOSE))
    end = opener if opener >= 0 else len(text)
    try:
        value, behind = decode_at(text[start:end])
        return _Read(value, end, behind)
    except BadJsonError as error:
        return _Read(error, end)


def _as_call(value: JsonValue, span: tuple[int, int]) -> ToolCall:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or not name:
        problem = 'Error: a tool call is an object with "name" and "arguments"; nothing was run.'
        return ToolCall(name="", problem=problem, span=span)
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = decode_whole(arguments)
        except BadJsonError as error:
            problem = f"Error: the arguments of {name} are no valid JSON ({error}); nothing was run."
            return ToolCall(name=name, problem=problem, span=span)
    if not isinstance(arguments, dict):
        problem = f"Error: the arguments of {name} must be an object, got {type(arguments).__name__}; nothing was run."
        return ToolCall(name=name, problem=problem, status=ToolStatus.BAD_ARGUMENTS, span=span)
    return ToolCall(name=name, arguments=arguments, span=span)
