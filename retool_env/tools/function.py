"""A typed Python function with a Google docstring as a tool.

Whatever goes wrong comes back to the model as text: a wrong argument names the parameter and what was expected, an
exception its type and message, without the frames of our code. What a function returns is shown as it is when it is
text, and as JSON otherwise.

The function runs in this process, in a thread of its own so that it can be given up after ``timeout`` seconds. A
thread cannot be killed: one that is given up runs on, and what it returns is dropped. When too many of them run on, the
tool counts as broken (``outage``). Code that the *model* wrote belongs into the sandbox, never into such a function.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import to_json

from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.tools.base import Arguments, ToolContext, ToolHandle, ToolReply
from retool_env.tools.signature import BadArgumentsError, Signature
from retool_env.tools.spec import ToolSpec

__all__ = ["FunctionTool", "function_tool"]

TIMEOUT: Final = 10.0
MAX_LATE: Final = 16
"""Calls that were given up and still run, of one tool, before it is taken for broken."""


@dataclass(frozen=True, kw_only=True)
class FunctionTool:
    """A function that the policy can call. Made by :func:`function_tool`; thread-safe if the function is.

    Attributes:
        timeout: seconds of wall time, ``None`` for no limit.
        pure: calls of one turn may run at the same time.
    """

    function: Callable[..., Any]
    signature: Signature
    timeout: float | None
    pure: bool
    _late: set[threading.Thread] = field(default_factory=set, compare=False, repr=False)

    @property
    def spec(self) -> ToolSpec:
        return self.signature.spec

    def open(self, context: ToolContext) -> ToolHandle:
        return _Handle(self, context)

    def run(self, arguments: Arguments, context: ToolContext) -> ToolReply:
        """One call, in whatever way it ends."""
        try:
            values = self.signature.read(arguments)
        except BadArgumentsError as error:
            return ToolReply(status=ToolStatus.BAD_ARGUMENTS, text=str(error))
        if self.signature.context_name:
            values[self.signature.context_name] = context
        start = time.monotonic()
        reply = _attempt(self.function, values) if self.timeout is None else self._run_in_time(values, self.timeout)
        return ToolReply(status=reply.status, text=reply.text, wall_seconds=time.monotonic() - start)

    def _run_in_time(self, values: dict[str, object], timeout: float) -> ToolReply:
        self._late.difference_update([thread for thread in tuple(self._late) if not thread.is_alive()])
        if len(self._late) >= MAX_LATE:
            return ToolReply(status=ToolStatus.OUTAGE, text=f"[{self.spec.name} is not available]")
        replies: list[ToolReply] = []
        name = f"tool {self.spec.name}"
        # A daemon, so that a function that never returns does not keep the process from ending.
        thread = threading.Thread(
            target=lambda: replies.append(_attempt(self.function, values)), name=name, daemon=True
        )
        thread.start()
        thread.join(timeout)
        if replies:
            return replies[0]
        self._late.add(thread)
        return ToolReply(status=ToolStatus.TIMEOUT, text=f"[{self.spec.name} timed out after {timeout:g} s]")


@dataclass(frozen=True)
class _Handle:
    tool: FunctionTool
    context: ToolContext

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        return self.tool.run(arguments, self.context)

    def close(self) -> None:
        pass


def function_tool(
    function: Callable[..., Any], *, name: str | None = None, timeout: float | None = TIMEOUT, pure: bool = True
) -> FunctionTool:
    """``function`` as a tool.

    >>> def add(a: int, b: int = 1) -> int:
    ...     '''Add two numbers.
    ...
    ...     Args:
    ...         a: First number.
    ...         b: Second number.
    ...     '''
    ...     return a + b
    >>> tool = function_tool(add)
    >>> tool.spec.signature
    'add(a: integer, b: integer = 1)'
    >>> print(tool.run({"a": "two"}, ToolContext()).text)
    Error: argument 'a' of add: expected a valid integer, got "two"

    Args:
        name: what the model calls it; the function's own name by default.
        timeout: seconds of one call; ``None`` runs it in the caller's thread, without a limit.
        pure: its calls do not depend on each other; those of one turn may run at the same time.

    Raises:
        UsageError: no docstring, a parameter without a type, or a type that no JSON schema can describe.
    """
    if timeout is not None and not timeout > 0:
        raise UsageError(f"timeout={timeout}: must be more than 0 seconds, or None")
    tool = FunctionTool(function=function, signature=Signature(function, name), timeout=timeout, pure=pure)
    assert tool.spec, "a schema that cannot be made is an error now and not in an episode"
    return tool


def _attempt(function: Callable[..., Any], values: dict[str, object]) -> ToolReply:
    """Call it. Only user code runs here, and nothing that it raises may end the episode or the thread."""
    try:
        value = function(**values)
        if inspect.iscoroutine(value):
            import asyncio

            value = asyncio.run(value)
        text = value if isinstance(value, str) else to_json(value, fallback=str).decode()
    except (Exception, SystemExit) as error:  # noqa: BLE001
        return ToolReply(status=ToolStatus.ERROR, text=f"{type(error).__name__}: {error}".removesuffix(": "))
    return ToolReply(status=ToolStatus.OK, text=text)
