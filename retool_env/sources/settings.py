"""A problem's settings for its tools, without the gold.

verl's rows say what a tool is to be told about a problem, and among it the answer (``create_kwargs.ground_truth``), for
tools that grade. Here no tool grades, and what a tool is told may end in the sandbox, where the policy's program reads
it. So every key that names an answer is taken out, at any depth. A gold under a name that says nothing of it
(``x: 42``) is not recognised; whoever makes such a file has to look at it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue

from retool_env.errors import UsageError

__all__ = ["is_gold_key", "tool_settings"]

_GOLD_KEY: Final = re.compile(
    r".*ground_?truth.*|gt|gt_.*|gold|gold_.*|(?:.*_)?(?:answer|solution)s?|expected|expected_output|target|label|reference",
    re.IGNORECASE,
)
_REWARD: Final = "calc_reward_kwargs"


def tool_settings(value: Any, where: str, removed: set[str]) -> dict[str, dict[str, JsonValue]]:
    """``tools_kwargs`` of a row: settings by the name of the tool, for those tools that have any left.

    ``None`` is taken out too: Parquet fills in every key that another row has.

    Args:
        removed: the names of the keys that were taken out are added to it.

    Raises:
        UsageError: not a mapping of mappings.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: tools_kwargs={str(value)[:60]!r}; expected an object by the name of the tool")
    settings: dict[str, dict[str, JsonValue]] = {}
    for tool, given in value.items():
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise UsageError(f"{where}: tools_kwargs.{tool}={str(given)[:60]!r}; expected an object")
        if kept := _without_gold({key: inner for key, inner in given.items() if key != _REWARD}, removed):
            settings[str(tool)] = kept
    return settings


def is_gold_key(name: str) -> bool:
    """Whether a key's name says that the answer stands under it."""
    return _GOLD_KEY.fullmatch(name) is not None


def _without_gold(value: Mapping[str, Any], removed: set[str]) -> dict[str, JsonValue]:
    removed.update(str(key) for key in value if is_gold_key(str(key)))
    kept = {str(key): _clean(inner, removed) for key, inner in value.items() if not is_gold_key(str(key))}
    return {key: inner for key, inner in kept.items() if inner is not None and inner != {}}


def _clean(value: Any, removed: set[str]) -> JsonValue:
    if isinstance(value, Mapping):
        return _without_gold(value, removed)
    if isinstance(value, list | tuple):
        return [_clean(inner, removed) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
