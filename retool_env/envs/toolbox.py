"""The tools that a configuration names: their descriptions, and the box that runs them.

Descriptions need no sandbox, so prompts can be built and checked before anything is started.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from retool_env.config import EnvConfig
from retool_env.sandbox import release, shared_sandbox
from retool_env.tools import CodeInterpreter, Tool, ToolBox, ToolSpec, interpreter_spec, load_tools

__all__ = ["SharedTools", "tool_specs"]

INTERPRETER: Final = "code_interpreter"


def tool_specs(config: EnvConfig) -> tuple[ToolSpec, ...]:
    """What the model reads about the tools.

    Raises:
        UsageError: a name or a file that holds no tools.
    """
    found: list[ToolSpec] = []
    for name in config.tools:
        own = name == INTERPRETER
        found += [interpreter_spec(stateful=config.stateful)] if own else [tool.spec for tool in load_tools(name)]
    return tuple(found)


class SharedTools:
    """A :class:`~retool_env.tools.ToolBox` with the process's shared sandbox behind its interpreter, if it has one."""

    def __init__(self, config: EnvConfig) -> None:
        self._sandbox = config.sandbox if INTERPRETER in config.tools else None
        self.box = ToolBox([tool for name in config.tools for tool in self._load(name, config)])

    def _load(self, name: str, config: EnvConfig) -> Iterator[Tool]:
        if name != INTERPRETER:
            yield from load_tools(name)
            return
        yield CodeInterpreter(
            sandbox=shared_sandbox(config.sandbox),
            limits=config.sandbox_limits,
            mode=config.interpreter_mode,
            traceback=config.traceback,
            stateful=config.stateful,
        )

    def close(self) -> None:
        """Give the sandbox back."""
        self.box.close()
        if self._sandbox is not None:
            release(self._sandbox)
            self._sandbox = None
