"""Groups of settings by name: ``dialect=hermes``, ``reward=strategic``, ``data=gsm8k``.

An option is a YAML file ``configs/GROUP/OPTION.yaml``: its first comment says what it is, and its ``@package`` where
its keys belong. An option sets keys and is nothing more; every key can be set on its own, and then wins.

Contract: on the command line an option beats the recipe (``experiment``), because it is said later. ``env`` is what a
recipe is made of, and it may refine it: where the recipe itself chooses ``env``, another option takes the place of its
choice and the recipe's own keys stay. An algorithm beats the recipe too, and its file names every part that makes it
what it is, so that nothing of the recipe's own algorithm is left in it; the one that the recipe is of changes nothing.
``GROUP@PLACE=OPTION`` puts an option elsewhere, e.g. ``data@eval.problems=aime_2025``.
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
    "config_folder",
    "group_names",
    "option",
    "option_names",
    "options",
    "place_in",
    "said_last",
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
        values: what it sets, what the options of its group that it begins with set included.
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
    values = yaml.load(text, _LOADER) or {}
    parents = [one for one in values.pop("defaults", ()) if isinstance(one, str) and one != "_self_"]
    return Option(
        group=group,
        name=path.stem,
        about=shorten((sentence[0] if sentence else about).rstrip(".:"), _WIDTH),
        package="" if package == "_global_" else package,
        values={key: value for one in parents for key, value in _read(path.with_stem(one)).values.items()} | values,
    )


def options(command: str, kind: type[BaseModel], group: str) -> list[Option]:
    """The options of a group that a command can take: those whose keys it has."""
    place = place_in(command, group).split(".")[0]
    fields = set(kind.model_fields)
    return [one for one in _all_options()[group] if ({place} if place else one.sections) <= fields]


def option(group: str, name: str) -> Option | None:
    """One option, whichever command it is for; ``None`` when there is none of that name."""
    return next((one for one in _all_options()[group] if one.name == name), None)


def place_in(command: str, group: str) -> str:
    """Where a command has the keys of a group, if not where the option says; else ``""``."""
    return _PLACES.get((command, group), "")


def option_names(group: str) -> list[str]:
    """All options of a group, whichever command they are for."""
    return [option.name for option in _all_options()[group]]


def group_names(command: str, kind: type[BaseModel]) -> list[str]:
    """The groups that a command has."""
    return [group for group in GROUPS if options(command, kind, group)]


def said_last(overrides: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What options set that must stand as they say it, whatever a recipe says, by key (``env.reward``).

    Of an option that was added behind the defaults (``+reward=format``) it is the mappings, which Hydra would merge
    with the recipe's; of an algorithm, whose place is in front of the recipe, it is everything.
    """
    for override in overrides:
        key, _, name = override.partition("=")
        group, _, place = key.removeprefix("+").partition("@")
        if group not in GROUPS or not (key.startswith("+") or group == "algo"):
            continue
        if chosen := option(group, name):
            prefix = place or chosen.package
            found = _parts(chosen.values, f"{prefix}." if prefix else "")
            yield from found if group == "algo" else ((key, value) for key, value in found if isinstance(value, dict))


def _parts(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from _parts(value, f"{prefix}{key}.")
