"""Find a user's reward function: in a file, or in a module.

Purpose: ``rewards/mine.py``, ``rewards/mine.py:score``, ``package.module`` and ``package.module:score`` name a function
wherever the name of a built-in part is accepted. Without a name behind the colon it is ``reward_func``.
Contract: every mistake is one line that names the file (see :mod:`retool_env.modules`, which loads it).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from retool_env.errors import UsageError, did_you_mean
from retool_env.modules import load_module, split_source

__all__ = ["DEFAULT_NAME", "load_function"]

DEFAULT_NAME = "reward_func"


@lru_cache(maxsize=64)
def load_function(where: str, known: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The function at ``where``.

    Args:
        where: a file or module, with ``:name`` for another function than ``reward_func``.
        known: names that are resolved elsewhere, for the message about a misspelt one.

    Raises:
        UsageError: no such file or module, an error while it is loaded, or nothing callable of that name in it.
    """
    location, name = split_source(where)
    if "." not in location:
        # A bare word is a misspelt part rather than a module.
        raise UsageError(f"no reward part {where!r}{did_you_mean(where, known)}")
    name = name or DEFAULT_NAME
    module = load_module(location, what="reward")
    function = getattr(module, name, None)
    if not callable(function):
        found = f"it is a {type(function).__name__}" if hasattr(module, name) else "it is missing"
        raise UsageError(f"{name} must be callable, but {found} in {location}; export {name} = your_function")
    loaded: Callable[..., Any] = function
    return loaded
