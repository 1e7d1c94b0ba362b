"""Choices of groups on the command line (``reward=strategic``), in Hydra's terms.

See :mod:`retool_env.groups` for what an option is and what it beats.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from pydantic import BaseModel

from retool_env.errors import UsageError
from retool_env.groups import group_names, option_names, place_in

__all__ = ["sweep_values", "written"]

_FIRST = {"experiment", "benchmark"}  # places of their own in the defaults of a command, in front of all options


def sweep_values(override: str) -> tuple[str, ...]:
    """The values of ``key=a,b``, ``key=range(3)`` or ``key=choice(a,b)``; one value is a sweep of one, and so is what
    has no list of values (``interval(0,1)``)."""
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override() and parsed.is_discrete_sweep():
        return tuple(map(str, parsed.sweep_string_iterator()))
    return (parsed.get_value_element_as_str(),)


def written(command: str, kind: type[BaseModel], overrides: Sequence[str]) -> list[str]:
    """Overrides with choices of groups in Hydra's terms. Hydra must be initialised.

    Raises:
        UsageError: recipes of one sweep of which only some choose an option of their own.
    """
    known = set(group_names(command, kind))
    result = []
    for override in overrides:
        group, at, place = override.partition("=")[0].partition("@")
        if group in known - _FIRST and "=" in override and _is_choice(override, group, at):
            result += _choice(command, override, group, place, overrides)
        else:
            result.append(override)
    return result


def _is_choice(override: str, group: str, at: str) -> bool:
    """``agent=NAME`` may also name an agent without a file here; of every other group a name must be an option."""
    if group != "agent" or at:
        return True
    return set(sweep_values(override)) <= set(option_names(group))


def _choice(command: str, override: str, group: str, place: str, overrides: Sequence[str]) -> list[str]:
    """An option takes the place of the one in the defaults, or is added behind everything else. The algorithm that a
    recipe is of says nothing new: the recipe has refined it."""
    value = override.partition("=")[2]
    place = place or place_in(command, group)
    key = f"{group}@{place}" if place else group
    there = [_defaults(command, recipe).get(key) for recipe in _recipes(overrides)]
    if any(there) and not all(there):
        raise UsageError(f"{override}: only some recipes of this sweep choose their own {group}; sweep them apart")
    if group == "algo" and set(there) == {value}:
        return []
    return [f"{key}={value}" if all(there) else f"+{key}={value}"]


def _recipes(overrides: Sequence[str]) -> tuple[str, ...]:
    chosen = [override for override in overrides if override.startswith("experiment=")]
    return sweep_values(chosen[-1]) if chosen else ("null",)


def _defaults(command: str, recipe: str) -> dict[str, str]:
    """Options in the command's defaults, and in those of the recipe, by group."""
    loader = GlobalHydra.instance().config_loader()
    chosen = [] if recipe == "null" else [f"experiment={recipe}"]
    found = loader.compute_defaults_list(command, chosen, RunMode.RUN)
    return {
        str(one.override_key): str(one.config_path).rpartition("/")[2] for one in found.defaults if one.override_key
    }
