"""A dialect for episodes of random bytes: a turn that ends in ``!`` is a call of ``echo``, one that ends itself is an
answer. Nothing in it needs a policy that can write.
"""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.dialects import Turn
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolCall, ToolResult, ToolSpec

STOP = "!"


class ShoutDialect:
    name = "shout"
    stop = (STOP,)
    chat_tools = False
    replies = False

    def __init__(self, *, instructions: bool = True) -> None:
        self.instructions = instructions

    def build_prompt(self, problem: Problem, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        return (Message(role="user", content=problem.question),)

    def parse(self, text: str) -> Turn:
        if STOP not in text:
            return Turn(calls=(), answer=text or "nothing", stopped=False)
        return Turn(calls=(ToolCall(name="echo", arguments={"text": text}),), answer="", stopped=True)

    def write(self, text: str, calls: Sequence[ToolCall]) -> str:
        return text + STOP if calls else text

    def render(self, results: Sequence[ToolResult], *, stopped: bool, tokenizer: Tokenizer) -> str:
        return "".join(f"[{result.text}]" for result in results)


def echo(text: str) -> str:
    """Say it backwards.

    Args:
        text: what to say.
    """
    return text[::-1]


TOOL_FUNCTIONS = [echo]
