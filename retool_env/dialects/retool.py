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

A turn ends at ``</code>`` or at the end-of-turn token. The program may be fenced or bare. A closing tag without an
opening one is a malformed call: the model is told, the episode goes on. What is *not* handled: several programs in
one turn, which cannot occur, because generation stops at the first ``</code>``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from retool_env.dialects import Turn
from retool_env.problems import Message, Problem
from retool_env.tools import ToolCall, ToolResult
from retool_env.verifier import extract_answer

__all__ = ["RetoolDialect"]

OPEN, CLOSE = "<code>", "</code>"
_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL | re.IGNORECASE)
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


class RetoolDialect:
    """``<code>`` / ``<interpreter>`` / ``<answer>`` tags."""

    name = "retool"
    stop = (CLOSE,)

    def __init__(self, *, instructions: bool = True) -> None:
        self.instructions = instructions

    def build_prompt(self, problem: Problem) -> tuple[Message, ...]:
        if isinstance(problem.prompt, str):
            messages: tuple[Message, ...] = (Message(role="user", content=problem.prompt),)
        else:
            messages = problem.prompt
        if not self.instructions:
            return messages
        last = messages[-1]
        return (*messages[:-1], Message(role=last.role, content=INSTRUCTIONS + last.content))

    def parse(self, text: str) -> Turn:
        end = text.find(CLOSE)
        if end < 0:
            return Turn(calls=(), answer=extract_answer(text).answer, stopped=False)
        return Turn(calls=(_read_call(text[:end]),), answer="", stopped=True)

    def render(self, results: Sequence[ToolResult]) -> str:
        return "".join(f"\n<interpreter>\n{_neutral(result.text)}\n</interpreter>\n" for result in results)


def _read_call(before_close: str) -> ToolCall:
    start = before_close.rfind(OPEN)
    if start < 0:
        return ToolCall(problem=f"Error: {CLOSE} without {OPEN}; nothing was run.")
    body = before_close[start + len(OPEN) :]
    fenced = _FENCE.search(body)
    code = (fenced[1] if fenced else body).strip("\n")
    if not code.strip():
        return ToolCall(problem="Error: the program is empty; nothing was run.")
    return ToolCall(code=code)


def _neutral(text: str) -> str:
    """A program that prints the dialect's own tags must not open or close a block."""
    return _OWN_TAGS.sub("< ", text)
