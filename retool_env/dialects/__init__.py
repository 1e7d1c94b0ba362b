"""How a model writes a call and an answer, and how a result is written back.

``retool`` is the tag format of the paper, ``hermes`` the ``<tool_call>`` JSON of the Qwen families through the model's
own chat template, ``markdown`` fenced programs as in ToRA and Qwen2.5-Math. A dialect of your own is a class with the
methods of :class:`Dialect`, named by ``path/to/file.py:Class`` or ``package.module:Class``.

The dialect owns text in both directions; ids belong to the episode's tokenizer. It reads only what the policy wrote,
never evaluates anything of it, and disarms its own tags in what tools wrote.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from retool_env.errors import UsageError, did_you_mean
from retool_env.modules import load_module, split_source
from retool_env.problems import Message, Problem
from retool_env.tokenizer import Tokenizer
from retool_env.tools.base import ToolCall, ToolResult
from retool_env.tools.spec import ToolSpec

__all__ = ["Dialect", "Turn", "make_dialect"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one assistant turn says.

    Attributes:
        calls: the calls in it, in order, malformed ones included; empty for a final turn.
        answer: the final answer as written, ``""`` when there is none.
        stopped: the text ends in one of the dialect's stop strings.
    """

    calls: tuple[ToolCall, ...]
    answer: str
    stopped: bool

    @property
    def void(self) -> bool:
        """Neither a call nor an answer: nothing can come of it."""
        return not self.calls and not self.answer


class Dialect(Protocol):
    """One way of writing tool calls."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a turn, beside the end-of-turn token."""
        ...

    @property
    def chat_tools(self) -> bool:
        """The tools are described by the tokenizer's chat template, not by the messages."""
        ...

    @property
    def replies(self) -> bool:
        """Results may follow an end-of-turn token, as messages of their own."""
        ...

    def build_prompt(self, problem: Problem, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        """The conversation that the policy continues.

        Raises:
            UsageError: one of the tools cannot be called in this dialect.
        """
        ...

    def parse(self, text: str) -> Turn:
        """Read one assistant turn; never raises."""
        ...

    def write(self, text: str, calls: Sequence[ToolCall]) -> str:
        """The turn in which a policy says ``text`` and makes ``calls``: what ``parse`` reads, the other way round.

        For recordings and scripted agents. A program that holds the dialect's own closing tag cannot be written in it;
        ``parse`` then gives back something else.

        Raises:
            UsageError: more calls than a turn can hold, or one that is not of the interpreter where only that exists.
        """
        ...

    def render(self, results: Sequence[ToolResult], *, stopped: bool, tokenizer: Tokenizer) -> str:
        """The text that follows the turn: the results, as the model will read them.

        Args:
            results: in the order of the calls; control tokens in them are disarmed already.
            stopped: the turn ended in a stop string, not in the end-of-turn token.
        """
        ...


_BUILT_IN: Final = {
    "hermes": "retool_env.dialects.hermes:HermesDialect",
    "markdown": "retool_env.dialects.markdown:MarkdownDialect",
    "retool": "retool_env.dialects.retool:RetoolDialect",
}
_PARTS: Final = ("name", "stop", "chat_tools", "replies", "build_prompt", "parse", "write", "render")


def make_dialect(name: str, *, instructions: bool = True) -> Dialect:
    """The dialect called ``name``, or the class at ``file.py:Class``.

    >>> dialect = make_dialect("retool")
    >>> turn = dialect.parse("Let me see. <code>print(6 * 7)</code>")
    >>> turn.calls[0].code, turn.stopped
    ('print(6 * 7)', True)
    >>> make_dialect("hermes").write("", turn.calls)
    '<tool_call>\\n{"name": "code_interpreter", "arguments": {"code": "print(6 * 7)"}}\\n</tool_call>'

    Args:
        instructions: put the dialect's own instructions in front of the question. Off for a model that was trained
            on the format and needs no telling.

    Raises:
        UsageError: there is none of that name, or the class lacks a part of a dialect.
    """
    location, attribute = split_source(_BUILT_IN.get(name, name))
    if not attribute:
        raise UsageError(f"no dialect {name!r}{did_you_mean(name, _BUILT_IN)}; or give file.py:Class")
    module = importlib.import_module(location) if name in _BUILT_IN else load_module(location, what="dialect")
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise UsageError(f"dialect={name!r}: no class {attribute!r} in it{did_you_mean(attribute, vars(module))}")
    dialect = factory(instructions=instructions)
    missing = [part for part in _PARTS if not hasattr(dialect, part)]
    if missing:
        raise UsageError(f"dialect={name!r}: {attribute} lacks {', '.join(missing)}; see retool_env.dialects.Dialect")
    return cast("Dialect", dialect)
