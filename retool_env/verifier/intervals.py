r"""The set of numbers that a relation describes.

Purpose: ``x \le 3``, ``1 < x \le 3``, ``|x| < 2``, ``x \ne 0`` and ``\mathbb{R} \setminus \{0\}`` are other spellings
of intervals and of unions of intervals, so they are compared as such.
Contract: pure, for a cleaned text (:mod:`.latex`); None for any other relation. Points that are taken out must be
rational numbers, because they have to be put in order.
Left out: inequalities that must be solved first (``2x > 6``); those are left to algebra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from retool_env.verifier.exact import number
from retool_env.verifier.names import is_name, split

__all__ = ["RELATION", "Interval", "Region", "read_punctured", "read_region"]

RELATION = re.compile(r"\\(le|ge)(?![A-Za-z])|([<>])")
_FLIPPED = {"ge": "le", ">": "<"}
_MODULUS = re.compile(r"\|([^|]+)\|")
_NOT_EQUAL = re.compile(r"\\ne(?![A-Za-z])")
_WITHOUT = re.compile(r"\\mathbb ?\{?R\}? ?(?:\\setminus|\\backslash|-|\\) ?\\\{([^{}]*)\\\}")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One interval: its two brackets (``[)``) and its ends as text."""

    brackets: str
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class Region:
    """Intervals in order, and the name of what lies in them (``""`` for a bare set)."""

    name: str = ""
    intervals: tuple[Interval, ...]


def read_region(text: str) -> Region | None:
    """What the relation describes; None when it is no relation of one name with bounds."""
    if without := _WITHOUT.fullmatch(text):
        return _without("", without[1].split(","))
    unequal = split(text, _NOT_EQUAL)
    if len(unequal) == 2 and is_name(unequal[0]):
        return _without(unequal[0], [unequal[1]])
    return _between(text)


def read_punctured(parts: list[str]) -> Region | None:
    r"""``x \ge 3`` and ``x \ne 4`` together: an interval without some of its inner points."""
    parts = sorted(parts, key=lambda part: _NOT_EQUAL.search(part) is not None)
    if len(parts) < 2 or not _NOT_EQUAL.search(parts[-1]):
        return None
    first, holes = read_region(parts[0]), [split(part, _NOT_EQUAL) for part in parts[1:]]
    points = {number(hole[-1]): hole[-1] for hole in holes}
    if first is None or len(first.intervals) > 1 or None in points:
        return None
    if any(len(hole) != 2 or hole[0] != first.name for hole in holes):
        return None
    whole = first.intervals[0]
    low, high = number(whole.low), number(whole.high)
    inner = sorted(point for point in points if point is not None)
    if (low is not None and inner[0] <= low) or (high is not None and inner[-1] >= high):
        return None
    ends = [whole.low, *(points[point] for point in inner), whole.high]
    brackets = [whole.brackets[0] + ")", *["()"] * (len(inner) - 1), "(" + whole.brackets[1]]
    pairs = zip(brackets, ends[:-1], ends[1:], strict=True)
    return Region(
        name=first.name, intervals=tuple(Interval(brackets=signs, low=left, high=right) for signs, left, right in pairs)
    )


def _without(name: str, points: list[str]) -> Region | None:
    """All numbers but these points."""
    values = {number(point.strip()): point.strip() for point in points}
    if None in values:
        return None
    ordered = [values[value] for value in sorted(value for value in values if value is not None)]
    ends = zip(["-\\infty", *ordered], [*ordered, "\\infty"], strict=True)
    return Region(name=name, intervals=tuple(Interval(brackets="()", low=low, high=high) for low, high in ends))


def _between(text: str) -> Region | None:
    signs = [match[1] or match[2] for match in RELATION.finditer(text)]
    sides = [side.strip() for side in split(text, RELATION)]
    if len(sides) not in (2, 3) or len(signs) != len(sides) - 1:
        return None
    if signs[0] in _FLIPPED:
        sides, signs = sides[::-1], [_FLIPPED.get(sign, "") for sign in reversed(signs)]
    if not all(sides) or any(sign not in ("le", "<") for sign in signs):
        return None
    if len(sides) == 2:
        sides, signs = _with_infinity(sides, signs[0])
    low, name, high = sides
    if not is_name(name) or is_name(low) or is_name(high):
        return None
    brackets = ("[" if signs[0] == "le" else "(") + ("]" if signs[1] == "le" else ")")
    return Region(name=name, intervals=(Interval(brackets=brackets, low=low, high=high),))


def _with_infinity(sides: list[str], sign: str) -> tuple[list[str], list[str]]:
    """Both ends of ``x < 3``, ``3 < x`` and ``|x| < 3``."""
    modulus, bound = _MODULUS.fullmatch(sides[0]), number(sides[1])
    if modulus and is_name(modulus[1]) and bound is not None and bound > 0:
        return [f"-{sides[1]}", modulus[1], sides[1]], [sign, sign]
    if is_name(sides[1]):
        return [*sides, "\\infty"], [sign, "<"]
    return ["-\\infty", *sides], ["<", sign]
