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
    name: str,
    summary: str,
    examples: Sequence[tuple[str, str]],
    config: type[BaseModel],
    aliases: Mapping[str, str],
    *,
    arguments: Sequence[tuple[str, str]] = (),
) -> str:
    """The help page of a command whose configuration class is ``config``.

    Args:
        aliases: flags, and the keys that they stand for.
        arguments: what may be given beside settings, with what it means.
    """
    others = "".join(f"[{argument}] " for argument, _ in arguments)
    lines = [f"retool {name}: {summary}", "", f"usage: retool {name} {others}[key=value ...] [-m for a sweep]", ""]
    for argument, meaning in arguments:
        lines += [f"  {argument}", _filled(meaning)]
    lines += ["examples:"] if not arguments else ["", "examples:"]
    for command, meaning in examples:
        lines += [f"  {command}", f"      {meaning}"]
    if flags := list(_flags(aliases, dict(_all_meanings(config(), "")))):
        lines += ["", "flags, each another way to write a setting:", *flags]
    lines += _groups(name, config)
    lines += ["", "settings (with defaults; `experiment=NAME` loads a recipe from configs/experiment first):"]
    return "\n".join([*lines, *_settings(config(), "")])


def _flags(aliases: Mapping[str, str], meanings: Mapping[str, str]) -> Iterator[str]:
    for flag, setting in aliases.items():
        key, equals, before = setting.partition("=")
        if key in meanings:
            yield f"  {flag} VALUE  is  {key}={before if equals else ''}VALUE"
            if meaning := meanings[key]:
                yield _filled(meaning)


def _all_meanings(defaults: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    meanings = _meanings(type(defaults))
    for name, value in defaults:
        if isinstance(value, BaseModel):
            yield from _all_meanings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", meanings.get(name, "")


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


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
            yield _filled(meaning)


def _meanings(config: type[BaseModel]) -> dict[str, str]:
    """The ``Attributes:`` sections of the class and of those that it extends, without their markup."""
    entries = [entry for base in reversed(config.__mro__) for entry in _entries(base)]
    return {
        name: re.sub(r"\s+", " ", re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", text)).replace("``", "")
        for name, text in entries
    }


def _entries(config: type) -> list[tuple[str, str]]:
    _, _, section = inspect.cleandoc(config.__dict__.get("__doc__") or "").partition("Attributes:\n")
    return _ENTRY.findall(textwrap.dedent(section))


def _show(value: Any) -> str:
    """A default as it would be written on the command line."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_show, value))}]"
    if isinstance(value, BaseModel):
        return "{" + ", ".join(f"{name}: {_show(inner)}" for name, inner in value) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
