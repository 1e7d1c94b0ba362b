"""``retool COMMAND --help``: groups and their options, and every setting, its default and what it means.

A setting is documented once, in the ``Attributes:`` section of its class, and an option in its YAML file; this module
only lays them out.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from retool_env.groups import GROUPS, group_names, options
from retool_env.terminal import shorten

__all__ = ["command_help"]

_ENTRY = re.compile(r"^(\w+): (.*(?:\n {4,}.*)*)", re.MULTILINE)
WIDTH = 110


def command_help(
    name: str, summary: str, examples: Sequence[tuple[str, str]], config: type[BaseModel], aliases: Mapping[str, str]
) -> str:
    """The help page of a command whose configuration class is ``config``."""
    lines = [f"retool {name}: {summary}", "", f"usage: retool {name} [key=value ...] [-m for a sweep]", "", "examples:"]
    for command, meaning in examples:
        lines += [f"  {command}", f"      {meaning}"]
    lines += _groups(name, config)
    lines += ["", "settings (with defaults; `experiment=NAME` loads a recipe from configs/experiment first):"]
    lines += _settings(config(), "")
    keys = {line.split(" = ")[0].strip() for line in lines}
    flags = [f"  {flag} VALUE  is  {key}=VALUE" for flag, key in aliases.items() if key in keys]
    return "\n".join([*lines, "", "flags:", *flags] if flags else lines)


def _groups(name: str, config: type[BaseModel]) -> list[str]:
    groups = {group: options(name, config, group) for group in group_names(name, config)}
    if not groups:
        return []
    lines = ["", "groups (`reward=strategic` sets what configs/reward/strategic.yaml says; each key can be set alone):"]
    for group, found in groups.items():
        lines.append(f"  {group}: {GROUPS[group]}")
        width = max(len(option.name) for option in found) + 2
        lines += [f"    {option.name:{width}}{shorten(option.about, WIDTH - width - 4)}" for option in found]
    return lines


def _settings(defaults: BaseModel, prefix: str) -> Iterator[str]:
    meanings = _meanings(type(defaults))
    for name, value in defaults:
        if isinstance(value, BaseModel):
            yield f"\n  {prefix}{name}: {meanings.get(name, '')}".rstrip()
            yield from _settings(value, f"{prefix}{name}.")
            continue
        yield f"  {prefix}{name} = {_show(value)}"
        if meaning := meanings.get(name):
            yield textwrap.fill(meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _meanings(config: type[BaseModel]) -> dict[str, str]:
    """The ``Attributes:`` section of the class, without its markup."""
    _, _, section = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")
    entries = _ENTRY.findall(textwrap.dedent(section))
    return {
        name: re.sub(r"\s+", " ", re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text)).replace("``", "")
        for name, text in entries
    }


def _show(value: Any) -> str:
    """A default as it would be written on the command line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{name}: {_show(inner)}" for name, inner in value) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
