"""What the start of a log says about tools and rewards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from retool_env.rewards.combine import Part, Reward
from retool_env.rewards.parts import REWARDS
from retool_env.tools import ToolSpec, describe_tools

__all__ = ["describe"]


def describe(reward: Reward, tools: Iterable[ToolSpec] = ()) -> list[str]:
    """One line for each tool, with its signature, and one for each part of the reward, with weight and options."""
    return [*(f"tool {line}" for line in describe_tools(tools).splitlines()), *map(_part, reward.parts)]


def _part(part: Part) -> str:
    options = "".join(f", {key}={value:g}" for key, value in part.options)
    label = " (reads tool results)" if part.reads_tool_results else ""
    meaning = _first_line(REWARDS[part.name].function) if part.name in REWARDS else "user function"
    return f"reward {part.name} (weight={part.weight:g}{options}){label}: {meaning}"


def _first_line(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
