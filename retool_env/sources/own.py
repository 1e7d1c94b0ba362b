"""Problems from a user's own source: ``path/to/file.py:Class``, or an installed name of the group ``retool.datasets``.

Contract: the class is called with ``split``, ``seed`` and ``size`` and gives a
:class:`~retool_env.feeder.ProblemSource`: a name, a size, and problems that are a pure function of their number.
Left out: rows whose gold cannot be graded are not looked for; `retool data check` does that for files.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Final

from retool_env.errors import UsageError, did_you_mean
from retool_env.feeder import ProblemSource
from retool_env.modules import load_module, split_source
from retool_env.problems import Problem

__all__ = ["installed_sources", "is_own", "own_source"]

GROUP: Final = "retool.datasets"
_PARTS: Final = ("name", "size", "problem")


def installed_sources() -> list[str]:
    """Names that installed packages give to sources."""
    return sorted(point.name for point in entry_points(group=GROUP))


def is_own(name: str) -> bool:
    """Whether ``name`` stands for a source of the user's own."""
    return bool(split_source(name)[1]) or name in installed_sources()


def own_source(name: str, *, split: str, seed: int, size: int | None) -> ProblemSource:
    """The source that ``name`` stands for.

    Raises:
        UsageError: it cannot be loaded, fails when it is made, or lacks a part of a source.
    """
    factory = _find(name)
    try:
        source = factory(split=split, seed=seed, size=size)
    except UsageError:
        raise
    except Exception as error:  # the user's code
        raise UsageError(
            f"problems={name!r} with split={split!r}, seed={seed}, size={size}: {type(error).__name__}: {error}"
        ) from error
    if missing := [part for part in _PARTS if not hasattr(source, part)]:
        raise UsageError(f"problems={name!r}: it lacks {', '.join(missing)}; see retool_env.feeder.ProblemSource")
    _check_first(name, source)
    found: ProblemSource = source
    return found


def _find(name: str) -> Callable[..., Any]:
    location, attribute = split_source(name)
    if not attribute:
        point = next(point for point in entry_points(group=GROUP) if point.name == name)
        found: Callable[..., Any] = point.load()
        return found
    module = load_module(location, what="problems")
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise UsageError(
            f"problems={name!r}: no class or function {attribute!r} in it{did_you_mean(attribute, vars(module))}"
        )
    return factory


def _check_first(name: str, source: ProblemSource) -> None:
    """One problem now rather than an exception in the middle of a run."""
    if source.size is not None and source.size < 1:
        raise UsageError(f"problems={name!r}: it has no problem (size={source.size})")
    try:
        first = source.problem(0)
    except Exception as error:  # the user's code
        raise UsageError(f"problems={name!r}: problem(0) raised {type(error).__name__}: {error}") from error
    if not isinstance(first, Problem):
        raise UsageError(
            f"problems={name!r}: problem(0) is a {type(first).__name__}; return a retool_env.problems.Problem"
        )
