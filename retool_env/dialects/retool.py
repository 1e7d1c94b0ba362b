r"""The tag format of the ReTool paper: one assistant message with programs and their output in the middle of it.

    ... <code>
    ```python
    print(6 * 7)
    ```
    </code>
    <interpreter>
    42
    </interpreter>
    ... <answer>\boxed{42}</answer>

A turn ends at ``</code>`` or at the end-of-turn token. The program may be fenced or bare; tags and fences in its
strings and comments are its own. Of several opening tags the first one counts behind which the others are such, so a
tag that the text merely mentions opens nothing. A closing tag without an opening one is a malformed call: the model is
told, the episode goes on. What is *not* handled: several programs in one turn, which cannot occur, because generation
stops at the first ``</code>``, even in a string; and tools beside the interpreter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from retool_env.dialects import Turn
from retool_env.dialects.literals import blanked
from retool_env.dialects.prompting import interpreter_only, one_program, with_instructions
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools.base import ToolCall, ToolResult
from retool_env.tools.spec import ToolSpec
from retool_env.verifier import extract_answer

__all__ = ["RetoolDialect"]

OPEN, CLOSE = "<code>", "</code>"
_MOST_OPENINGS = 8
"""Of more than these only the last one is looked at, so that a turn of nothing but tags costs no time."""

_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n", re.IGNORECASE)
_FENCE_END = re.compile(r"\n?```")
_OWN_TAGS = re.compile(r"<(?=/?(?:code|interpreter|answer)>)")

INSTRUCTIONS = """\
Solve the problem below step by step. Whenever a calculation helps, you may write a Python program between <code> and \
</code>; it runs at once, and its output follows between <interpreter> and </interpreter>, so that you can go on from \
it. Each program is complete in itself (imports included) and shows its results with print. Write a program like this:
<code>
```python
print(6 * 7)
```
</code>
When you are done, end with <answer>\\boxed{...}</answer>, with the final answer inside the box.

Problem:
"""

WITHOUT_TOOL = """\
Solve the problem below step by step. When you are done, end with <answer>\\boxed{...}</answer>, with the final answer \
inside the box.

Problem:
"""


class RetoolDialect:
    """``<code>`` / ``<interpreter>`` / ``<answer>`` tags."""

    name = "retool"
    stop = (CLOSE,)
    chat_tools = False
    replies = False

    def __init__(self, *, instructions: bool = True) -> None:
        self.instructions = instructions

    def build_prompt(self, problem: Problem, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        text = INSTRUCTIONS if interpreter_only(tools, self.name) else WITHOUT_TOOL
        return with_instructions(problem, text if self.instructions else "")

    def parse(self, text: str) -> Turn:
        end = text.find(CLOSE)
        if end < 0:
            return Turn(calls=(), answer=extract_answer(text).answer, stopped=False)
        return Turn(calls=(_read_call(text[:end]),), answer="", stopped=True)

    def write(self, text: str, calls: Sequence[ToolCall]) -> str:
        return f"{text}{OPEN}\n```python\n{one_program(calls, self.name)}\n```\n{CLOSE}" if calls else text

    def render(self, results: Sequence[ToolResult], *, stopped: bool, tokenizer: Tokenizer) -> str:
        return "".join(f"\n<interpreter>\n{_neutral(result.text)}\n</interpreter>\n" for result in results)


def _read_call(before_close: str) -> ToolCall:
    start, end = _opening(before_close), len(before_close) + len(CLOSE)
    if start < 0:
        problem = f"Error: {CLOSE} without {OPEN}; nothing was run."
        return ToolCall(problem=problem, span=(len(before_close), end))
    code = _program(before_close[start + len(OPEN) :]).strip("\n")
    if not code.strip():
        return ToolCall(problem="Error: the program is empty; nothing was run.", span=(start, end))
    return ToolCall(arguments={"code": code}, span=(start, end))


def _opening(text: str) -> int:
    """Where the program's tag stands; -1 when there is none."""
    for match in itertools.islice(re.finditer(OPEN, text), _MOST_OPENINGS):
        if OPEN not in blanked(text[match.end() :]):
            return match.start()
    return text.rfind(OPEN)


def _program(body: str) -> str:
    """What stands between the tags, without a fence and what is outside of it."""
    fence = _FENCE.search(blanked(body))
    if not fence:
        return body
    inside = body[fence.end() :]
    end = _FENCE_END.search(blanked(inside))
    return inside[: end.start()] if end else inside


def _neutral(text: str) -> str:
    """A program that prints the dialect's own tags must not open or close a block."""
    return _OWN_TAGS.sub("< ", text)
