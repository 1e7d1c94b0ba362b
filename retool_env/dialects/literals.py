r"""Programs without what their strings and comments say.

Purpose: a tag or a fence in a string of a program is text of that program and no part of the dialect.
Contract: pure, linear, and right for what is no Python too: quotes that are not closed quote nothing, so that the
apostrophe of a sentence in front of a program hides nothing.
Left out: whether it is a program; nothing is compiled.
"""

from __future__ import annotations

import re

__all__ = ["blanked"]

_LITERAL = re.compile(
    r"#[^\n]*"
    r"|(?P<three>\"{3}|'{3})(?:\\.|(?!(?P=three))[^\\])*+(?P<closed_three>(?P=three))?"
    r"|(?P<one>[\"'])(?:\\.|(?!(?P=one))[^\\\n])*+(?P<closed_one>(?P=one))?",
    re.DOTALL,
)


def blanked(program: str) -> str:
    r"""The program with ``_`` for every character of its closed strings and its comments; as long as before.

    >>> blanked("s = '<code>'  # <code>")
    's = ________  ________'
    >>> blanked("It's <code>")
    "It's <code>"
    """
    return _LITERAL.sub(_blank, program)


def _blank(match: re.Match[str]) -> str:
    whole = match[0].startswith("#") or match["closed_three"] or match["closed_one"]
    return "_" * len(match[0]) if whole else match[0]
