r"""Decide one value against another without algebra.

Purpose: numbers, multiple-choice letters and words need no computer algebra; decide them here, both ways.
Contract: pure; works on cleaned leaves (:mod:`.latex`). :func:`decide` returns a reason word (``equal``,
``different``, ``not_a_number``, ``too_big``) or None when only algebra can tell. Numbers are compared exactly, never as
floats; a rounded decimal stands for a non-terminating fraction from six decimals on. For a number as gold only what
can be a number is left to algebra: no variables, no prose, no relation, no unevaluated sum, product or limit.
Left out: lists, tuples, relations (:mod:`.compare`), irrational values (:mod:`.symbolic`); words and times have modules
of their own (:mod:`.words`, :mod:`.colons`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from retool_env.verifier.arithmetic import TooBigError, evaluate
from retool_env.verifier.colons import same_parts
from retool_env.verifier.latex import unwrap
from retool_env.verifier.units import Measured, measure, units_conflict
from retool_env.verifier.words import TEXT, same_words

__all__ = ["decide", "measured", "number"]

_MIN_DECIMALS = 6
_DECIMALS = re.compile(r"[+-]?[0-9]*\.([0-9]+)")
_SPACED_DIGITS = re.compile(r"[0-9] +[0-9]")
_NUMERIC_COMMANDS = (
    "frac|sqrt|pi|ln|log|exp|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|binom|lfloor|rfloor|lceil|rceil|overline|text"
    "|circ"
)
_NUMERIC = re.compile(
    rf"(?:\\(?:{_NUMERIC_COMMANDS})(?![A-Za-z])|[0-9+\-*/^_(){{}}\[\]|!. ]|(?<![A-Za-z])[ei](?![A-Za-z]))+"
)


@dataclass(frozen=True, kw_only=True)
class _Value:
    """A leaf as read once: what was measured, its text without spaces, and its rational value if it has one."""

    measured: Measured
    compact: str
    value: Fraction | None
    too_big: bool


def decide(pred: str, gold: str) -> str | None:
    """The verdict on two leaves, or None when algebra is needed."""
    left, right = _read(pred), _read(gold)
    if not left.compact or not right.compact or units_conflict(left.measured, right.measured):
        return "different"
    if left.compact == right.compact:
        factors = [(side.measured.percent, side.measured.scale) for side in (left, right)]
        return "equal" if factors[0] == factors[1] else _numbers(left, right)
    for same in (same_words(pred, gold), same_parts(left.compact, right.compact)):
        if same is not None:
            return "equal" if same else "different"
    if left.too_big or right.too_big:
        return "too_big"
    if left.value is not None and right.value is not None:
        return _numbers(left, right)
    if right.value is not None and not _can_be_number(left.measured.body):
        return "not_a_number"
    return None


def number(text: str) -> Fraction | None:
    """The rational value of a leaf, units and percent signs aside."""
    return _read(text).value


def measured(text: str) -> Measured:
    """A leaf taken apart into value and unit."""
    return _read(text).measured


@lru_cache(maxsize=4096)
def _read(text: str) -> _Value:
    leaf = measure(text)
    body = unwrap(TEXT.sub(r"\1", leaf.body).strip())
    value, too_big = None, False
    try:
        value = evaluate(body)
        value = None if value is None else value * leaf.scale
    except TooBigError:
        too_big = True
    return _Value(measured=leaf, compact=_compact(body), value=value, too_big=too_big)


def _compact(body: str) -> str:
    # Between digits and between letters a space means something: "3 4", "line segment".
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", body).removeprefix("+")


def _numbers(left: _Value, right: _Value) -> str:
    pred, gold = left.value, right.value
    if pred is None or gold is None:
        return "different"
    if pred == gold:
        return "equal"
    if left.measured.percent != right.measured.percent:
        return "equal" if (pred / 100 == gold if left.measured.percent else pred == gold / 100) else "different"
    return "equal" if _rounds(left, gold) or _rounds(right, pred) else "different"


def _rounds(decimal: _Value, exact: Fraction) -> bool:
    """The decimal is ``exact`` rounded or cut, where ``exact`` has no finite decimal form."""
    digits = _DECIMALS.fullmatch(decimal.compact)
    if digits is None or len(digits[1]) < _MIN_DECIMALS or decimal.value is None or _terminates(exact):
        return False
    error = abs(decimal.value - exact)
    return error < Fraction(1, 10 ** len(digits[1])) and error < abs(exact) / 10**5


def _terminates(value: Fraction) -> bool:
    return bool(10 ** value.denominator.bit_length() % value.denominator == 0)


def _can_be_number(body: str) -> bool:
    plausible = _NUMERIC.fullmatch(TEXT.sub(r"\1", body)) is not None
    return plausible and body.count("|") % 2 == 0 and not _SPACED_DIGITS.search(body)
