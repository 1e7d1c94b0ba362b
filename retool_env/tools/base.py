"""Calls, results, and what a tool is.

A tool is opened once for each episode; the handle that comes back holds the state of that episode, if there is any.
A handle answers a call with a :class:`ToolReply` and never raises for what the model wrote. It may be called from
several threads at once when the tool says that it is ``pure``, and from one at a time otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from retool_env.outcome import ToolStatus
from retool_env.tools.spec import ToolSpec

__all__ = ["Arguments", "ChecksSettings", "Tool", "ToolCall", "ToolContext", "ToolHandle", "ToolReply", "ToolResult"]

Arguments = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call as the policy wrote it.

    Attributes:
        name: the tool's name.
        arguments: what it is called with; nothing is known yet about their types.
        problem: what was wrong with the way it was written; ``""`` for a well-formed call. Such a call is answered
            with this text and never reaches a tool.
        status: what a call with a ``problem`` counts as; of no meaning without one.
        span: where it stands in the text of its turn, in characters.
    """

    name: str = "code_interpreter"
    arguments: Arguments = field(default_factory=dict)
    problem: str = ""
    status: ToolStatus = ToolStatus.MALFORMED
    span: tuple[int, int] = (0, 0)

    @property
    def code(self) -> str:
        """The program, of a call of the code interpreter; ``""`` when there is none."""
        code = self.arguments.get("code")
        return code if isinstance(code, str) else ""


@dataclass(frozen=True, kw_only=True)
class ToolReply:
    """What a tool gave back. ``text`` is what the model reads; the seconds are time fields."""

    status: ToolStatus
    text: str
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """A call with what came of it."""

    call: ToolCall
    status: ToolStatus
    text: str
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What a tool learns of the episode it is opened for. The gold answer is not in it.

    Attributes:
        seed: of whatever is random in the tool.
        kwargs: the problem's own settings for this tool (``create_kwargs`` of its row).
        key: names the episode, for sandboxes that share their places fairly.
    """

    seed: int = 0
    kwargs: Mapping[str, JsonValue] = field(default_factory=dict)
    key: str = ""


class ToolHandle(Protocol):
    """A tool in one episode."""

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        """Answer one call."""
        ...

    def close(self) -> None:
        """The episode is over."""
        ...


@runtime_checkable
class Tool(Protocol):
    """Something the policy can call."""

    @property
    def spec(self) -> ToolSpec: ...

    @property
    def pure(self) -> bool:
        """Calls do not depend on each other, so those of one turn may run at the same time."""
        ...

    def open(self, context: ToolContext) -> ToolHandle:
        """The tool for one episode.

        Raises:
            SandboxError: what it needs is not there.
            UsageError: the problem's settings for it cannot work.
        """
        ...


@runtime_checkable
class ChecksSettings(Protocol):
    """What a :class:`Tool` may do beside: look at a problem's settings when the episode starts.

    A tool is opened when it is first called, which is late to learn that a row of the data is wrong.
    """

    def check(self, kwargs: Mapping[str, JsonValue]) -> None:
        """Raises :class:`~retool_env.errors.UsageError` for settings with which ``open`` could not work."""
        ...
