"""Formulas of the pages as MathML, made while the site is built, so that reading it needs no script and no network.

What the converter cannot read ends the build: a page with a raw formula would be noticed by its readers only.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

__all__ = ["on_page_content"]

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Called by mkdocs with the rendered page."""
    return _FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    return str(convert(unescape(match[3]), display="block" if match[2] == "[" else "inline"))
