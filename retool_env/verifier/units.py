r"""Take a unit, a percent sign or an ordinal ending off a value.

Purpose: ``15 \text{ cm}^{2}``, ``28%`` and ``12^{\text{th}}`` are judged by their number.
Contract: pure; works on a cleaned leaf (:mod:`.latex`). A unit may be absent on either side; two *known* different
ones are a conflict. A ``\text`` at the end counts as a unit unless it hedges, negates or lists.
Left out: conversion between units (``1 m`` is not ``100 cm``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Measured", "measure", "units_conflict"]

_ALIASES = {
    "m": "metre meter", "cm": "centimetre centimeter", "mm": "millimetre millimeter", "km": "kilometre kilometer",
    "inch": "in inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "g": "gram gm", "kg": "kilogram kilo",
    "lb": "pound", "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "", "month": "",
    "year": "yr", "dollar": "usd", "cent": "", "euro": "eur", "degree": "deg", "radian": "rad", "litre": "liter",
    "km/h": "kmh", "mph": "", "m/s": "",
}  # fmt: skip
_KNOWN = {alias: unit for unit, aliases in _ALIASES.items() for alias in [unit, *aliases.split()]}
_COUNTED = "unit square sq cubic cu point way people person student ton coin of per yuan rupee u time"
_HEDGING = (
    "and or not no nor is isn isnt are but to than about approx approximately nearly roughly wrong incorrect maybe "
    "if for mod modulo base where when with between at least most more less over under above below"
)
_UNIT_WORDS = frozenset([*_KNOWN, *_COUNTED.split()])
_HEDGES = frozenset(_HEDGING.split())
_PERCENT = frozenset({"percent", "percentage", "pct"})
_TAIL_TEXT = re.compile(r"\\text ?\{([^{}]*)\} ?(\^\{[0-9]\})?$")
_TAIL_WORDS = re.compile(r"(?<=[0-9)}]) *([A-Za-z][A-Za-z/ ]*)(\^\{[0-9]\})?$")
_ORDINAL = re.compile(r"(?<=[0-9])(?:\^\{\\text ?\{(?:st|nd|rd|th)\}\}|\\text\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th))$")
_UNFINISHED = ("+", "-", "*", "/", "^", "_", "=", "<", ">", "{", "(", "|", ",")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A leaf without its unit: the text left, the known unit (or ``""``), and whether it counts hundredths."""

    body: str
    unit: str = ""
    percent: bool = False


def measure(text: str) -> Measured:
    """Take off what stands after the value."""
    unit, percent = "", False
    for _ in range(4):
        body, word = _tail(text)
        if body == text:
            break
        text, percent = body, percent or word == "%"
        unit = unit or _KNOWN.get(word, "")
    return Measured(body=_ORDINAL.sub("", text), unit=unit, percent=percent)


def units_conflict(left: Measured, right: Measured) -> bool:
    """Both sides name a known unit, and not the same."""
    return bool(left.unit and right.unit and left.unit != right.unit)


def _tail(text: str) -> tuple[str, str]:
    """The text without its last unit, and that unit in its singular; the text itself when it ends in none."""
    text = text.rstrip(" .")
    if text.endswith("%"):
        return text[:-1].rstrip(), "%"
    if text.endswith("\\circ"):
        return text.removesuffix("\\circ").rstrip(), "degree"
    match = _TAIL_TEXT.search(text)
    if match and _is_unit_text(match[1]):
        return _cut(text, match)
    match = _TAIL_WORDS.search(text)
    if match and _are_unit_words(match[1], squared=bool(match[2])):
        return _cut(text, match)
    return text, ""


def _cut(text: str, match: re.Match[str]) -> tuple[str, str]:
    body = text[: match.start()].rstrip()
    if not body or body.endswith(_UNFINISHED):
        return text, ""
    words = [_singular(word) for word in match[1].split()]
    word = next((word for word in words if word in _KNOWN or word in _PERCENT), "")
    return body, "%" if word in _PERCENT else word


def _is_unit_text(content: str) -> bool:
    words = content.replace("/", " ").replace(".", " ").replace("^", " ").split()
    letters = all(word.isalnum() and word.isascii() for word in words)
    return letters and len(words) <= 4 and not any(word.isdigit() or word.lower() in _HEDGES for word in words)


def _are_unit_words(content: str, *, squared: bool) -> bool:
    words = [_singular(word) for word in content.replace("/", " / ").split() if word != "/"]
    # One bare letter after a number is rather a variable than a unit, unless it is squared.
    long_enough = squared or len(content.strip()) > 1
    return long_enough and all(word in _UNIT_WORDS or word in _PERCENT for word in words)


def _singular(word: str) -> str:
    word = word.strip(".").lower()
    return word if word in _KNOWN else word.removesuffix("s")
