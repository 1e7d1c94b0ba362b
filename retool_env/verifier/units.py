r"""Take a unit, a percent sign, a scale or an ordinal ending off a value.

Purpose: ``15 \text{ cm}^{2}``, ``28%``, ``3 \text{ million}`` and ``12^{\text{th}}`` are judged by their number.
Contract: pure; works on a cleaned leaf (:mod:`.latex`). A unit may be absent on either side; two *known* different
ones are a conflict. A ``\text`` at the end counts as a unit unless it hedges, negates or lists.
Left out: conversion between units (``1 m`` is not ``100 cm``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["HEDGES", "Measured", "measure", "units_conflict"]

_ALIASES = {
    "m": "metre meter", "cm": "centimetre centimeter", "mm": "millimetre millimeter", "km": "kilometre kilometer",
    "inch": "in inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "g": "gram gm", "kg": "kilogram kilo",
    "lb": "pound", "s": "sec second", "min": "minute", "h": "hr hour", "day": "", "week": "", "month": "",
    "year": "yr", "dollar": "usd", "cent": "", "euro": "eur", "degree": "deg", "radian": "rad", "litre": "liter",
    "km/h": "kmh kph", "mi/h": "mph", "gallon": "gal", "quart": "qt", "pint": "", "ounce": "oz", "acre": "",
}  # fmt: skip
_KNOWN = {alias: unit for unit, aliases in _ALIASES.items() for alias in [unit, *aliases.split()]}
_POWERS = {"square": "2", "sq": "2", "squared": "2", "cubic": "3", "cu": "3", "cubed": "3"}
_COUNTED = "unit point way people person student ton coin of per yuan rupee u time"
_HEDGING = (
    "and or not no nor is isn isnt are but to than about approx approximately nearly roughly wrong incorrect maybe "
    "if for mod modulo base where when with between at least most more less over under above below ish "
    # These change the number.
    "hundred dozen half halve third tenth hundredth thousandth factorial choose plus minus divided root pi "
    "false never otherwise except zero one two"
)
_UNIT_WORDS = frozenset([*_KNOWN, *_POWERS, *_COUNTED.split()])
HEDGES = frozenset(_HEDGING.split())
_PERCENT = frozenset({"percent", "percentage", "pct"})
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_TAIL_TEXT = re.compile(r"\\text ?\{([^{}]*)\} ?(?:\^\{([0-9])\})?$")
_TAIL_WORDS = re.compile(r"(?<=[0-9)}]) *([A-Za-z][A-Za-z/ ]*)(?:\^\{([0-9])\})?$")
# "7 apples": words that are too long for a product of variables, behind a number and nothing else.
_COUNTED_THINGS = re.compile(rf"[0-9][0-9,.]*(?: (?!(?:{'|'.join(sorted(HEDGES))})s?\b)[a-z]{{4,}}){{1,2}}")
_ENDING = "(?:st|nd|rd|th)"
_MARKED_ENDING = rf"\\text ?\{{{_ENDING}\}}|{_ENDING}"
_ORDINAL = re.compile(rf"(?<=[0-9]) ?(?:\^\{{(?:{_MARKED_ENDING})\}}|{_MARKED_ENDING})(?: [A-Za-z]+)?$")
_INNER_POWER = re.compile(r"(\\text ?\{[^{}]*)\^\{([0-9])\}\}$")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_WHOLE_TEXT = re.compile(r"\\text ?\{([+-]?[0-9][0-9.,]*) ?([A-Za-z][^{}]*)\}")
# A unit that stands in brackets: "12 \\text{ (cm)}", "12 (\\text{cm})".
_BRACKETED = re.compile(r"(?:\( ?\\text ?\{([^{}()]*)\} ?\)|\\text ?\{ ?\(([^{}()]*)\) ?\})(?=(?:\^\{[0-9]\})?$)")
_UNFINISHED = ("+", "-", "*", "/", "^", "_", "=", "<", ">", "{", "(", "|", ",")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A leaf without its unit: the text left, the known unit (or ``""``), whether it counts hundredths, its scale."""

    body: str
    unit: str = ""
    percent: bool = False
    scale: int = 1


def measure(text: str) -> Measured:
    """Take off what stands after the value."""
    unit, percent, scale = "", False, 1
    if whole := _WHOLE_TEXT.fullmatch(text):
        text = f"{whole[1]} \\text{{{whole[2]}}}"
    text = _BRACKETED.sub(r"\\text{\1\2}", text)
    text = _INNER_POWER.sub(r"\1}^{\2}", text)
    for _ in range(4):
        body, word = _tail(text)
        if body == text:
            break
        text, percent = body, percent or word == "%"
        unit = unit or (word if word != "%" and word not in _SCALES else "")
        scale *= _SCALES.get(word, 1)
    return Measured(body=_ORDINAL.sub("", text), unit=unit, percent=percent, scale=scale)


def units_conflict(left: Measured, right: Measured) -> bool:
    """Both sides name a known unit, and not the same."""
    return bool(left.unit and right.unit and left.unit != right.unit)


def _tail(text: str) -> tuple[str, str]:
    """The text without its last unit, and the name of that unit; the text itself when it ends in none."""
    text = text.rstrip(" .")
    if text.endswith("%"):
        return text[:-1].rstrip(), "%"
    if text.endswith("\\circ") and not _FUNCTION.search(text):
        return text.removesuffix("\\circ").rstrip(), "degree"
    match = _TAIL_TEXT.search(text)
    if match and _is_unit_text(match[1]):
        return _cut(text, match)
    match = _TAIL_WORDS.search(text)
    if match and (_are_unit_words(match[1], squared=bool(match[2])) or _COUNTED_THINGS.fullmatch(text)):
        return _cut(text, match)
    return text, ""


def _cut(text: str, match: re.Match[str]) -> tuple[str, str]:
    body = text[: match.start()].rstrip()
    if not body or body.endswith(_UNFINISHED):
        return text, ""
    words = [_singular(word) for word in match[1].replace("/", " per ").replace("^", " ").split()]
    if scale := next((word for word in words if word in _SCALES), ""):
        return body, scale
    if _PERCENT.intersection(words):
        return body, "%"
    return body, _unit(words, match[2] or next((_POWERS[word] for word in words if word in _POWERS), ""))


def _unit(words: list[str], power: str) -> str:
    """The name of a known unit: ``cm^2``, ``mi/h``; ``""`` for anything that is merely counted."""
    names = [_KNOWN[word] for word in words if word in _KNOWN]
    if "per" in words:
        return "/".join(names[:2])
    return names[0] + (f"^{power}" if power else "") if names else ""


def _is_unit_text(content: str) -> bool:
    words = content.replace("/", " ").replace(".", " ").replace("^", " ").split()
    if words[-1:] in (["squared"], ["cubed"]) and not _KNOWN.keys() & {_singular(word) for word in words}:
        return False
    if "".join(words).lower() in ("am", "pm"):
        return False
    letters = all(word.isalnum() and word.isascii() for word in words)
    hedged = any(
        (word.isdigit() and "^" not in content) or word.lower() in HEDGES or _singular(word) in HEDGES for word in words
    )
    return letters and len(words) <= 4 and not hedged


def _are_unit_words(content: str, *, squared: bool) -> bool:
    words = [_singular(word) for word in content.replace("/", " ").split()]
    # One bare letter after a number is rather a variable than a unit, unless it is squared.
    long_enough = squared or len(content.strip()) > 1
    return long_enough and all(word in _UNIT_WORDS or word in _PERCENT or word in _SCALES for word in words)


def _singular(word: str) -> str:
    word = word.strip(".").lower()
    return word if word in _KNOWN else word.removesuffix("s")
