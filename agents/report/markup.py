"""HTML by construction: what was not built as markup is escaped, so no text can turn into tags.

:func:`tag` is the only way to make a :class:`Markup`; f-strings and ``+`` give plain strings again, which are escaped
when they are put on the page (twice escaped looks wrong, never dangerous). Characters that a browser drops, or that
would reorder or hide the text around them, are shown by a visible stand-in. No parsing, no templates.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Markup", "escaped", "join", "tag"]

VOID = frozenset({"br", "input", "meta"})
_HIDDEN = (0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A), 0xFEFF)
_STAND_INS = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **{code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x80, 0xA0), *_HIDDEN)},
}


class Markup(str):
    """Text that already is HTML."""

    __slots__ = ()


def escaped(value: str) -> Markup:
    """Markup as it is, anything else with all of its special characters escaped."""
    return value if isinstance(value, Markup) else Markup(html.escape(value.translate(_STAND_INS), quote=True))


def join(parts: Iterable[str]) -> Markup:
    """The parts behind each other."""
    return Markup("".join(map(escaped, parts)))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: text or markup.
        attributes: ``class_`` and ``stroke_width`` mean ``class`` and ``stroke-width``; ``None`` leaves one out;
            numbers are coordinates, written with one decimal.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    opening = f"<{name}{given}>"
    return Markup(opening if name in VOID else f"{opening}{join(children)}</{name}>")


def _attribute(key: str, value: str | float) -> str:
    spelled = escaped(value) if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
    return f' {key.rstrip("_").replace("_", "-")}="{spelled}"'
