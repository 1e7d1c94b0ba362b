"""Writes ``docs/reference/config.md``, every key of every command: ``python docs/make_reference.py``.

Names, defaults and bounds come from the configuration classes, meanings from their ``Attributes:`` sections, recipes
and groups from the comments at the head of the files in ``configs/``. Nothing is written twice by hand; a test
compares the page with what this script makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from retool_env.cli import ALIASES, COMMANDS, _load
from retool_env.cli_help import _meanings, _show
from retool_env.compose import config_folder
from retool_env.config import _model_in

PAGE = Path(__file__).resolve().parent / "reference" / "config.md"
INTRODUCTION = """\
# Every key

Made by `python docs/make_reference.py` from the configuration classes; `retool COMMAND --help` prints the same for one
command. A key is written `section.key=value` on the command line (`algo.kl.coef=0.01`), nested in YAML, and as a
keyword in `gymnasium.make` where it belongs to `env`. An unknown key or a value of another type is an error that names
the key.
"""


def reference() -> str:
    """The page."""
    kinds = {name: _load(command.config) for name, command in COMMANDS.items()}
    lines = [INTRODUCTION, "## Commands", ""]
    for name, kind in kinds.items():
        lines += [f"### retool {name}", "", f"{_capital(COMMANDS[name].summary)}.", "", *_table(kind), ""]
    lines += ["## Sections", ""]
    for section, uses in _sections(list(kinds.values())).items():
        lines += _section(section, uses)
    lines += ["## Flags", "", "Names that the founding guides use for a key.", "", "| flag | key |", "| --- | --- |"]
    lines += [f"| `{flag}` | `{key}` |" for flag, key in ALIASES.items()]
    return "\n".join([*lines, "", *_groups()])


def _section(kind: type[BaseModel], uses: list[str]) -> list[str]:
    summary = _plain((kind.__doc__ or "").strip().splitlines()[0])
    return [f"### {_title(kind)}", "", f"{summary} Used as {', '.join(map(_code, uses))}.", "", *_table(kind), ""]


def _table(kind: type[BaseModel]) -> list[str]:
    """One row for each key; a section is a link, with what it changes of that section's defaults."""
    meanings, schema = _meanings(kind), kind.model_json_schema()
    rows = ["| key | default | value | meaning |", "| --- | --- | --- | --- |"]
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        inner = _model_in(field.annotation)
        nested = isinstance(default, BaseModel)
        shown = _changes(default) if nested else "" if field.is_required() else _code(_show(default))
        said = "" if nested else _kind(schema["properties"][name], schema.get("$defs", {}))
        link = f"[{_title(inner)}](#{_anchor(inner)})" if inner else ""
        cells = (f"`{name}`", shown, f"{said} {link}".strip(), meanings.get(name, ""))
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return rows


def _changes(value: BaseModel) -> str:
    plain = type(value)()
    changed = [f"{name}={_show(inner)}" for name, inner in value if inner != getattr(plain, name)]
    return _code(" ".join(changed)) if changed else ""


def _sections(kinds: Iterable[type[BaseModel]]) -> dict[type[BaseModel], list[str]]:
    """Every class that is a section of another one, with the keys that it stands under, by name."""
    found: dict[type[BaseModel], list[str]] = {}
    for kind in kinds:
        _walk(kind, "", found, set(kinds))
    return dict(sorted(found.items(), key=lambda item: _title(item[0])))


def _walk(
    kind: type[BaseModel], prefix: str, found: dict[type[BaseModel], list[str]], commands: set[type[BaseModel]]
) -> None:
    for name, field in kind.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is None or inner in commands:
            continue
        uses = found.setdefault(inner, [])
        if prefix + name not in uses:
            uses.append(prefix + name)
        _walk(inner, f"{prefix}{name}.", found, commands)


def _anchor(kind: type[BaseModel]) -> str:
    """Of the section, or of the command whose settings these are."""
    commands = [name for name, command in COMMANDS.items() if _load(command.config) is kind]
    return f"retool-{commands[0]}" if commands else _title(kind).lower()


def _title(kind: type[BaseModel]) -> str:
    return re.sub(r"(Config|Options)$", "", kind.__name__)


def _kind(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "$ref" in schema:
        return _kind(known[schema["$ref"].rpartition("/")[2]], known)
    if choices := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(choice, known) for choice in choices))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any value")
    if kind == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_kind(items, known)}" if items else "list"
    names = {"object": "mapping", "string": "text", "null": "`null`", "boolean": "`true`, `false`"}
    return " ".join([names.get(kind, kind), *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    return (f"{word} {schema[key]:g}" for key, word in words.items() if key in schema)


def _groups() -> Iterator[str]:
    """The YAML files that can be chosen by name."""
    yield "## Groups"
    yield ""
    yield "`GROUP=NAME` loads `configs/GROUP/NAME.yaml`; keys behind it on the line still win."
    for group in sorted(path for path in config_folder().iterdir() if path.is_dir()):
        yield from ("", f"### {group.name}", "", "| name | what |", "| --- | --- |")
        for path in sorted(group.glob("*.yaml")):
            yield f"| `{path.stem}` | {_cell(_head(path.read_text(encoding='utf-8')))} |"
    yield ""


def _head(text: str) -> str:
    """The first sentence of the comment at the head of a file; "Dr." ends none."""
    comment = re.match(r"(?:# @package .*\n)?((?:# ?.*\n)*)", text)
    assert comment
    words = " ".join(line.lstrip("# ").strip() for line in comment[1].splitlines())
    return re.split(r"(?<=\.)(?<!Dr\.)\s", words, maxsplit=1)[0]


def _plain(text: str) -> str:
    """Without the markup of docstrings."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
