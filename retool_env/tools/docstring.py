"""Google docstrings: the description of a function, and of each of its arguments.

Read are the text before the first section and the section ``Args:`` (or ``Arguments:``, ``Parameters:``). A type in
brackets behind a name is skipped, because the annotation says it. Left out: every other section and style.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

__all__ = ["Docstring", "parse_docstring"]

_SECTION = re.compile(r"^(\w[\w ]*):[ \t]*$", re.MULTILINE)
_ARGUMENTS = frozenset({"args", "arguments", "parameters", "params"})
_ENTRY = re.compile(r"\*{0,2}(\w+)[ \t]*(?:\([^\n]*?\))?:[ \t]*(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Docstring:
    """``description`` as one text, ``arguments`` by name, each on one line."""

    description: str
    arguments: dict[str, str]


def parse_docstring(text: str) -> Docstring:
    """Read a docstring; an argument that is not described is not in the result."""
    text = inspect.cleandoc(text)
    heads = list(_SECTION.finditer(text))
    starts = [head.start() for head in heads] + [len(text)]
    arguments: dict[str, str] = {}
    for head, end in zip(heads, starts[1:], strict=True):
        if head[1].strip().lower() in _ARGUMENTS:
            arguments |= _entries(text[head.end() : end])
    return Docstring(description=text[: starts[0]].strip(), arguments=arguments)


def _entries(section: str) -> dict[str, str]:
    """Entries start at the section's own indentation; what is indented further continues them."""
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(section))
    matches = [match for entry in entries if (match := _ENTRY.match(entry))]
    return {match[1]: " ".join(match[2].split()) for match in matches}
