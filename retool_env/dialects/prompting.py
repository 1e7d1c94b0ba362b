"""What the dialects have in common: instructions go in front of the question, in the same message; and two of them
write programs and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.errors import UsageError
from retool_env.problems import Message, Problem
from retool_env.tools.base import ToolCall
from retool_env.tools.spec import ToolSpec

__all__ = ["interpreter_only", "one_program", "with_instructions"]


def with_instructions(problem: Problem, instructions: str) -> tuple[Message, ...]:
    """The problem's messages, ``instructions`` put in front of the last one."""
    if isinstance(problem.prompt, str):
        return (Message(role="user", content=instructions + problem.prompt),)
    last = problem.prompt[-1]
    return (*problem.prompt[:-1], Message(role=last.role, content=instructions + last.content))


def interpreter_only(tools: Sequence[ToolSpec], dialect: str) -> bool:
    """Whether there is an interpreter, for a dialect that can call nothing else.

    Raises:
        UsageError: another tool is there.
    """
    for tool in tools:
        if tool.name != "code_interpreter":
            raise UsageError(
                f"dialect {dialect!r} writes programs and cannot call the tool {tool.name!r}; use dialect=hermes"
            )
    return bool(tools)


def one_program(calls: Sequence[ToolCall], dialect: str) -> str:
    """The program of the only call, for a dialect that can write nothing else.

    Raises:
        UsageError: several calls, or one of another tool.
    """
    if len(calls) != 1 or calls[0].name != "code_interpreter":
        names = [call.name for call in calls]
        raise UsageError(f"dialect {dialect!r} writes one program in a turn, not calls of {names}; use dialect=hermes")
    return calls[0].code
