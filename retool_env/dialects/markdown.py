r"""Fenced programs and fenced outputs in one assistant message, as ToRA and Qwen2.5-Math write them.

    ... ```python
    print(6 * 7)
    ```
    ```output
    42
    ```
    ... \boxed{42}

The model opens the output block itself: a turn ends where it has written ```` ```output ````, so it can never make up
an output, and programs in other fences are left alone. Run is the last closed ``python`` block before that. A model
that ends its turn (end-of-turn token) right behind a ``python`` block means it to be run too: chat models do that; the
output then comes as a message of its own. Not handled: several programs in one turn (the last one is run, as in ToRA),
and tools beside the interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from retool_env.dialects import Turn
from retool_env.dialects.prompting import interpreter_only, one_program, with_instructions
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools.base import ToolCall, ToolResult
from retool_env.tools.spec import ToolSpec
from retool_env.verifier import extract_answer

__all__ = ["MarkdownDialect"]

STOP = "```output"
_BLOCK = re.compile(r"```[ \t]*([\w+-]*)[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_PYTHON = frozenset({"python", "python3", "py"})

INSTRUCTIONS = """\
Solve the problem below step by step. Whenever a calculation helps, you may write a Python program in a python block \
and then open an output block; the program runs at once, and its output is filled in. Each program is complete in \
itself (imports included) and shows its results with print, like this:
```python
print(6 * 7)
```
```output
42
```
When you are done, put the final answer inside \\boxed{}.

Problem:
"""

WITHOUT_TOOL = """\
Solve the problem below step by step. When you are done, put the final answer inside \\boxed{}.

Problem:
"""


class MarkdownDialect:
    """```` ```python ```` and ```` ```output ```` blocks."""

    name = "markdown"
    stop = (STOP,)
    chat_tools = False
    replies = True

    def __init__(self, *, instructions: bool = True) -> None:
        self.instructions = instructions

    def build_prompt(self, problem: Problem, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        text = INSTRUCTIONS if interpreter_only(tools, self.name) else WITHOUT_TOOL
        return with_instructions(problem, text if self.instructions else "")

    def parse(self, text: str) -> Turn:
        end = text.find(STOP)
        if end >= 0:
            return Turn(calls=(_read_call(text, end),), answer="", stopped=True)
        blocks = list(_BLOCK.finditer(text))
        if blocks and blocks[-1][1].lower() in _PYTHON and not text[blocks[-1].end() :].strip():
            return Turn(calls=(_call_of(blocks[-1], blocks[-1].end()),), answer="", stopped=False)
        return Turn(calls=(), answer=extract_answer(text).answer, stopped=False)

    def write(self, text: str, calls: Sequence[ToolCall]) -> str:
        return f"{text}```python\n{one_program(calls, self.name)}\n```\n{STOP}" if calls else text

    def render(self, results: Sequence[ToolResult], *, stopped: bool, tokenizer: Tokenizer) -> str:
        texts = [_neutral(result.text) for result in results]
        if stopped:
            return "".join(f"\n{text}\n```\n" for text in texts)
        return tokenizer.reply([Message(role="user", content=f"{STOP}\n{text}\n```") for text in texts])


def _read_call(text: str, end: int) -> ToolCall:
    blocks = [block for block in _BLOCK.finditer(text, 0, end) if block[1].lower() in _PYTHON]
    if blocks:
        return _call_of(blocks[-1], end + len(STOP))
    problem = "Error: there is no closed ```python block before the output block; nothing was run."
    return ToolCall(problem=problem.replace("```", ""), span=(end, end + len(STOP)))


def _call_of(block: re.Match[str], end: int) -> ToolCall:
    span = (block.start(), end)
    code = block[2].strip("\n")
    if not code.strip():
        return ToolCall(problem="Error: the program is empty; nothing was run.", span=span)
    return ToolCall(arguments={"code": code}, span=span)


def _neutral(text: str) -> str:
    """A program that prints a fence must not close its block or open one."""
    return text.replace("```", "` ` `")
