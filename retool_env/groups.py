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
from pydantic import BaseModel

from retool_env.terminal import shorten

__all__ = [
    "GROUPS",
    "Option",
    "chosen_mappings",
    "config_folder",
    "group_names",
    "option_names",
    "options",
    "place_in",
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
    "benchmark": "evaluations by name, as `retool eval NAME` takes them",
    "experiment": "recipes: all of the above together",
}
# Where a command has a group's keys, if not where the option says.
_PLACES: Final[Mapping[tuple[str, str], str]] = {("train", "sampling"): "rollout.sampling"}
_ABOUT = re.compile(r"\A(?:# @package .*\n)?((?:#.*\n)*)")
_SENTENCE = re.compile(r".{12,}?[.](?=\s|$)", re.DOTALL)
_WIDTH = 100
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C where it was built so


@dataclass(frozen=True, kw_only=True)
class Option:
    """One file of a group.

    Attributes:
        about: what it is, in a line.
        package: where its keys belong; ``""`` for the top.
        values: what it sets itself.
        inherited: top-level keys of the options of its group that it begins with.
    """

    group: str
    name: str
    about: str
    package: str
    values: Mapping[str, Any] = field(repr=False)
    inherited: frozenset[str] = frozenset()

    @property
    def sections(self) -> set[str]:
        """The top-level keys that it touches."""
        return {self.package.split(".")[0]} if self.package else {*self.values, *self.inherited}


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
    values = yaml.load(text, _LOADER) or {}
    parents = [one for one in values.pop("defaults", ()) if isinstance(one, str) and one != "_self_"]
    return Option(
        group=group,
        name=path.stem,
        about=shorten((sentence[0] if sentence else about).rstrip(".:"), _WIDTH),
        package="" if package == "_global_" else package,
        values=values,
        inherited=frozenset(key for one in parents for key in _read(path.with_stem(one)).sections),
    )


def options(command: str, kind: type[BaseModel], group: str) -> list[Option]:
    """The options of a group that a command can take: those whose keys it has."""
    place = place_in(command, group).split(".")[0]
    fields = set(kind.model_fields)
    return [one for one in _all_options()[group] if ({place} if place else one.sections) <= fields]


def place_in(command: str, group: str) -> str:
    """Where a command has the keys of a group, if not where the option says; else ``""``."""
    return _PLACES.get((command, group), "")


def option_names(group: str) -> list[str]:
    """All options of a group, whichever command they are for."""
    return [option.name for option in _all_options()[group]]


def group_names(command: str, kind: type[BaseModel]) -> list[str]:
    """The groups that a command has."""
    return [group for group in GROUPS if options(command, kind, group)]


def chosen_mappings(overrides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Mappings that options set which were added behind the defaults (``+reward=format``), by key: ``env.reward``."""
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
