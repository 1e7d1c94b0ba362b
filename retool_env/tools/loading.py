"""Tools from a user's file, from a module, or from an installed package.

``path/to/tools.py`` and ``package.module`` export ``TOOL_FUNCTIONS``: a list of functions, or a dictionary from names
to functions. ``tools.py:name`` is one function, or one list, of that name. A bare word is looked up among the entry
points of the group ``retool.tools``. Wherever a function may stand, a :class:`~retool_env.tools.base.Tool` may stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from retool_env.errors import UsageError, did_you_mean
from retool_env.modules import load_module, split_source
from retool_env.tools.base import Tool
from retool_env.tools.function import function_tool

__all__ = ["load_tools"]

EXPORT: Final = "TOOL_FUNCTIONS"
GROUP: Final = "retool.tools"


def load_tools(source: str) -> tuple[Tool, ...]:
    """The tools at ``source``.

    Raises:
        UsageError: there is nothing of that name, no ``TOOL_FUNCTIONS`` in it, or something that is no tool.
    """
    tools = tuple(_tools(source, _find(source)))
    names = [tool.spec.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"tools={source!r}: two tools are called {name!r}; names must differ")
    return tools


def _find(source: str) -> Any:
    location, name = split_source(source)
    if not location.endswith(".py") and not name and "." not in location:
        installed = {point.name: point for point in entry_points(group=GROUP)}
        if location in installed:
            return _load(installed[location])
        known = did_you_mean(location, ["code_interpreter", *installed])
        raise UsageError(f"no tools {location!r}{known}; or give path/to/file.py or package.module")
    module = load_module(location, what="tools")
    if not hasattr(module, name or EXPORT):
        raise UsageError(
            f"tools={source!r}: there is no {name!r} in it{did_you_mean(name, vars(module))}"
            if name
            else f"No TOOL_FUNCTIONS found in {location}; export TOOL_FUNCTIONS = [your_function, ...]"
        )
    return getattr(module, name or EXPORT)


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        raise UsageError(f"tools={point.name!r} ({point.value}) fail: {type(error).__name__}: {error}") from error


def _tools(source: str, found: Any) -> Iterator[Tool]:
    rows = list(found.items()) if isinstance(found, Mapping) else [(None, item) for item in _listed(found)]
    if not rows:
        raise UsageError(f"No TOOL_FUNCTIONS found in {source}: it is empty; list at least one function")
    for name, item in rows:
        if isinstance(item, Tool) and not isinstance(item, type):
            yield item
        elif callable(item):
            yield function_tool(item, name=name)
        else:
            raise UsageError(f"tools={source!r}: {item!r} is no tool; list functions")


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]
