"""How a model writes a call and an answer, and how a result is written back.

The dialect owns text in both directions; ids belong to the episode's tokenizer. ``retool`` is the tag format of the
paper; ``hermes`` and ``markdown`` join it with the environment issue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from retool_env.errors import UsageError, did_you_mean
from retool_env.problems import Message, Problem
from retool_env.tools import ToolCall, ToolResult

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


class Dialect(Protocol):
    """One way of writing tool calls."""

    @property
    def name(self) -> str: ...

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a turn, beside the end-of-turn token."""
        ...

    def build_prompt(self, problem: Problem) -> tuple[Message, ...]:
        """The conversation that the policy continues."""
        ...

    def parse(self, text: str) -> Turn:
        """Read one assistant turn; never raises."""
        ...

    def render(self, results: Sequence[ToolResult]) -> str:
        """The text that follows the turn: the results, as the model will read them."""
        ...


def make_dialect(name: str, *, instructions: bool = True) -> Dialect:
    """The dialect called ``name``.

    Args:
        instructions: put the dialect's own instructions in front of the question. Off for a model that was trained
            on the format and needs no telling.
    """
    from retool_env.dialects.retool import RetoolDialect

    if name != RetoolDialect.name:
        raise UsageError(f"no dialect {name!r}{did_you_mean(name, [RetoolDialect.name])}")
    return RetoolDialect(instructions=instructions)
