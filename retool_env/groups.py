"""Groups of settings by name: ``dialect=hermes``, ``reward=strategic``, ``data=gsm8k``.

An option is a YAML file ``configs/GROUP/OPTION.yaml``: its first comment says what it is, and its ``@package`` where
its keys belong. An option sets keys and is nothing more; every key can be set on its own, and then wins.

Contract: on the command line an option beats the recipe (``experiment``), because it is said later. Two groups are
what a recipe is made of, and it may refine them: where the recipe itself chooses ``algo`` or ``env``, another option
takes the place of its choice and the recipe's own keys stay. ``GROUP@PLACE=OPTION`` puts an option elsewhere, e.g.
``data@eval.problems=aime_2025``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from pydantic import BaseModel

from retool_env.errors import UsageError
from retool_env.terminal import shorten

__all__ = [
    "GROUPS",
    "Option",
    "chosen_mappings",
    "config_folder",
    "group_names",
    "option_names",
    "options",
    "sweep_values",
    "written",
]

GROUPS: Final = {
    "env": "the environment as a whole",
    "dialect": "how calls are written",
    "tools": "what the policy may call",
    "sandbox": "who runs the programs",
    "reward": "what is paid",
    "verifier": "who says what is right",
    "agent": "who answers",
    "data": "what is asked",
    "sampling": "how answers are drawn",
    "algo": "how it learns",
    "model": "what is trained",
    "trainer": "on what it is trained",
    "logger": "where the numbers go",
    "experiment": "recipes: all of the above together",
}
# Where a command has a group's keys, if not where the option says.
_PLACES: Final[Mapping[tuple[str, str], str]] = {("train", "sampling"): "rollout.sampling"}
_ABOUT = re.compile(r"\A(?:# @package .*\n)?((?:#.*\n)*)")
_SENTENCE = re.compile(r".{12,}?[.:](?=\s|$)", re.DOTALL)
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Option:
    """One file of a group.

    Attributes:
        about: what it is, in a line.
        package: where its keys belong; ``""`` for the top.
        values: what it sets.
    """

    group: str
    name: str
    about: str
    package: str
    values: Mapping[str, Any] = field(repr=False)

    @property
    def sections(self) -> set[str]:
        """The top-level keys that it touches."""
        return {self.package.split(".")[0]} if self.package else set(self.values)


def config_folder() -> Path:
    """Where the YAML files are: beside the packages in a checkout, inside ``retool_env`` in a wheel."""
    package = Path(__file__).resolve().parent
    found = [
        folder for folder in (package.parent / "configs", package / "configs") if (folder / "train.yaml").is_file()
    ]
    assert found, f"no configs/ beside or inside {package}"
    return found[0]


@lru_cache(maxsize=1)
def _all_options() -> Mapping[str, tuple[Option, ...]]:
    return {group: tuple(_read(path) for path in sorted((config_folder() / group).glob("*.yaml"))) for group in GROUPS}


def _read(path: Path) -> Option:
    text, group = path.read_text(encoding="utf-8"), path.parent.name
    header = re.match(r"# @package (\S+)", text)
    comment = _ABOUT.match(text)
    about = " ".join(line.lstrip("# ") for line in (comment[1] if comment else "").splitlines())
    sentence = _SENTENCE.match(about)
    package = header[1] if header else group
    return Option(
        group=group,
        name=path.stem,
        about=shorten((sentence[0] if sentence else about).rstrip(".:"), _WIDTH),
        package="" if package == "_global_" else package,
        values={key: value for key, value in (yaml.safe_load(text) or {}).items() if key != "defaults"},
    )


def options(command: str, kind: type[BaseModel], group: str) -> list[Option]:
    """The options of a group that a command can take: those whose keys it has."""
    place = _PLACES.get((command, group), "").split(".")[0]
    fields = set(kind.model_fields)
    return [one for one in _all_options()[group] if ({place} if place else one.sections) <= fields]


def option_names(group: str) -> list[str]:
    """All options of a group, whichever command they are for."""
    return [option.name for option in _all_options()[group]]


def group_names(command: str, kind: type[BaseModel]) -> list[str]:
    """The groups that a command has."""
    return [group for group in GROUPS if options(command, kind, group)]


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
        if group in known - {"experiment"} and "=" in override and _is_choice(override, group, at):
            result.append(_choice(command, override, group, place, overrides))
        else:
            result.append(override)
    return result


def _is_choice(override: str, group: str, at: str) -> bool:
    """``agent=NAME`` may also name an agent without a file here; of every other group a name must be an option."""
    if group != "agent" or at:
        return True
    return set(sweep_values(override)) <= set(option_names(group))


def _choice(command: str, override: str, group: str, place: str, overrides: Sequence[str]) -> str:
    """An option takes the place of the one in the defaults, or is added behind everything else."""
    value = override.partition("=")[2]
    place = place or _PLACES.get((command, group), "")
    key = f"{group}@{place}" if place else group
    there = [key in _defaults(command, recipe) for recipe in _recipes(overrides)]
    if any(there) and not all(there):
        raise UsageError(f"{override}: only some recipes of this sweep choose their own {group}; sweep them apart")
    return f"{key}={value}" if all(there) else f"+{key}={value}"


def _recipes(overrides: Sequence[str]) -> tuple[str, ...]:
    chosen = [override for override in overrides if override.startswith("experiment=")]
    return sweep_values(chosen[-1]) if chosen else ("null",)


def _defaults(command: str, recipe: str) -> set[str]:
    """Groups with an option in the command's defaults, and in those of the recipe."""
    loader = GlobalHydra.instance().config_loader()
    chosen = [] if recipe == "null" else [f"experiment={recipe}"]
    found = loader.compute_defaults_list(command, chosen, RunMode.RUN)
    return {str(one.override_key) for one in found.defaults if one.override_key}


def chosen_mappings(overrides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mappings that options added by :func:`written` set, by key: ``env.reward``."""
    for override in overrides:
        key, _, name = override.partition("=")
        group, _, place = key.removeprefix("+").partition("@")
        if not key.startswith("+") or group not in GROUPS:
            continue
        option = next((one for one in _all_options()[group] if one.name == name), None)
        if option is not None:
            prefix = place or option.package
            yield from _mappings(option.values, f"{prefix}." if prefix else "")


def _mappings(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{prefix}{key}", value
            yield from _mappings(value, f"{prefix}{key}.")
