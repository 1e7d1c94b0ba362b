"""The tools of an environment, and the running of a turn's calls.

Every call gets exactly one result, in the order of the calls, whatever becomes of its siblings. Calls of pure tools run
at the same time, those of the others one after another in the order in which they were written. A call that was
written wrongly is answered with what was wrong.

A tool is opened when an episode first calls it, and not before: most episodes need no session of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pydantic import JsonValue

from retool_env.errors import SandboxError, UsageError, did_you_mean
from retool_env.outcome import ToolStatus
from retool_env.seeding import derive
from retool_env.tools.base import ChecksSettings, Tool, ToolCall, ToolContext, ToolHandle, ToolReply, ToolResult

__all__ = ["ToolBox", "ToolSession", "ToolsKwargs"]

ToolsKwargs = Mapping[str, Mapping[str, JsonValue]]
"""A problem's settings by the name of the tool, as in verl's rows: each a mapping with ``create_kwargs`` in it, or the
settings themselves."""

WORKERS: Final = 8
GOLD: Final = "ground_truth"
"""verl's rows repeat the answer in ``create_kwargs``; no tool is ever told it."""


class ToolBox:
    """Tools by name. Thread-safe.

    Args:
        workers: calls of pure tools that run at the same time, over all episodes of this box.

    Attributes:
        specs: what the model reads about them.

    Raises:
        UsageError: two tools have the same name.
    """

    def __init__(self, tools: Sequence[Tool], *, workers: int = WORKERS) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        names = [tool.spec.name for tool in tools]
        if len(self._tools) < len(names):
            double = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two tools are called {double!r}; names must differ")
        self.specs = tuple(tool.spec for tool in tools)
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def open(self, *, seed: int = 0, tools_kwargs: ToolsKwargs | None = None, key: str = "") -> ToolSession:
        """The tools for one episode.

        Args:
            seed: of what is random in them.
            tools_kwargs: the problem's settings for its tools; those of tools that are not here are left out.
            key: names the episode.

        Raises:
            UsageError: settings that cannot work, of a tool that looks at them beforehand.
        """
        for name, tool in self._tools.items():
            if tools_kwargs and name in tools_kwargs and isinstance(tool, ChecksSettings):
                tool.check(_settings(tools_kwargs, name))
        numbers = {name: number for number, name in enumerate(self._tools)}

        def context(name: str) -> ToolContext:
            own_seed = derive(seed, "tool", numbers[name]) % 2**32
            return ToolContext(seed=own_seed, kwargs=_settings(tools_kwargs, name), key=key)

        return ToolSession(self, self._tools, context)

    def close(self) -> None:
        """End the threads. The tools' own resources belong to whoever made the tools."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def pool(self) -> ThreadPoolExecutor:
        """The shared threads, made when they are first needed."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="tools")
            return self._pool


class ToolSession:
    """The tools of one episode. One ``run`` at a time."""

    def __init__(self, box: ToolBox, tools: Mapping[str, Tool], context: Callable[[str], ToolContext]) -> None:
        self._box = box
        self._tools = tools
        self._context = context
        self._handles: dict[str, ToolHandle] = {}

    def run(self, calls: Sequence[ToolCall], *, seed: int) -> list[ToolResult]:
        """Answer the calls of one turn, in their order.

        Raises:
            UsageError: the problem's settings for a tool cannot work, and the tool did not look at them before.
        """
        seeds = [derive(seed, "call", k) % 2**32 for k in range(len(calls))]
        handles = [self._handle(call) for call in calls]
        together = [k for k, call in enumerate(calls) if not call.problem and self._is_pure(call)]
        if len(together) > 1:
            pool = self._box.pool()
            waiting = {k: pool.submit(_answer, calls[k], handles[k], seeds[k]) for k in together}
        else:
            waiting = {}
        answers = {k: _answer(calls[k], handles[k], seeds[k]) for k in range(len(calls)) if k not in waiting}
        answers |= {k: future.result() for k, future in waiting.items()}
        return [answers[k] for k in range(len(calls))]

    def close(self) -> None:
        """The episode is over; its sessions end."""
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def _is_pure(self, call: ToolCall) -> bool:
        return call.name in self._tools and self._tools[call.name].pure

    def _handle(self, call: ToolCall) -> ToolHandle | ToolReply:
        """Who answers the call, or the answer when nobody can."""
        if call.problem:
            return ToolReply(status=call.status, text=call.problem)
        if call.name not in self._tools:
            known = did_you_mean(call.name, self._tools) or "; there are no tools"
            text = f"Error: there is no tool {call.name!r}{known}. Nothing was run."
            return ToolReply(status=ToolStatus.UNKNOWN_TOOL, text=text)
        if call.name not in self._handles:
            try:
                self._handles[call.name] = self._tools[call.name].open(self._context(call.name))
            except SandboxError:
                return ToolReply(status=ToolStatus.OUTAGE, text=f"[{call.name} is not available]")
        return self._handles[call.name]


def _answer(call: ToolCall, handle: ToolHandle | ToolReply, seed: int) -> ToolResult:
    reply = handle if isinstance(handle, ToolReply) else handle.call(call.arguments, seed=seed)
    # A lone surrogate can be neither encoded for the model nor written to a file.
    text = reply.text.encode("utf-8", "replace").decode()
    return ToolResult(
        call=call, status=reply.status, text=text, cpu_seconds=reply.cpu_seconds, wall_seconds=reply.wall_seconds
    )


def _settings(tools_kwargs: ToolsKwargs | None, name: str) -> dict[str, JsonValue]:
    given = (tools_kwargs or {}).get(name, {})
    inner = given.get("create_kwargs", given)
    return {key: value for key, value in inner.items() if key != GOLD} if isinstance(inner, Mapping) else {}
