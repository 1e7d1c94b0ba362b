r"""Exact rational value of a number or of small arithmetic.

Purpose: decide numbers without algebra, in microseconds, digit by digit.
Contract: ``evaluate`` returns the exact :class:`~fractions.Fraction`, None for anything that is not plain rational
arithmetic, and raises :class:`TooBigError` before any number grows far past 8192 bits. It is a recursive descent over
a short, cleaned text (:mod:`.latex`); nothing is ever handed to ``eval``. Understood: integers, decimals, ``1e3``,
repeating decimals, thousands separators, ``a:b``, mixed numbers, ``+ - * / ^ !``, brackets, ``| |``, floor and
ceiling, ``\frac``, ``\binom``, and ``\sqrt`` of squares.
Left out: units and percent signs (:mod:`.exact`), and every irrational number.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

__all__ = ["TooBigError", "evaluate"]

_MAX_BITS = 8192
_MAX_EXPONENT = 8192
_MAX_FACTORIAL = 500
_MAX_DEPTH = 40

_PLAIN = re.compile(r"([+-]?) ?([1-9][0-9]{0,2}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?: [0-9]{3})+|[0-9]+)?(?:\.([0-9]*))?")
_RATIO = re.compile(r"([0-9]+) ?: ?([0-9]+)")
_NUMBER = re.compile(r"([0-9]*)(?:\.([0-9]*)(?:\\overline ?(?:\{([0-9]+)\}|([0-9])))?)?(?:[eE]([+-]?[0-9]+))?")
_WHOLE_ARGUMENT = r" ?(?:\{ ?([0-9]+) ?\}|([0-9]))"
_MIXED = re.compile(rf" ?\\frac{_WHOLE_ARGUMENT}{_WHOLE_ARGUMENT}| ([0-9]+) ?/ ?([0-9]+)")
_GROUPS = {"(": ")", "{": "}", "[": "]", "|": "|", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_FACTOR_STARTS = ("(", "\\frac", "\\sqrt", "\\binom", "\\lfloor", "\\lceil")


class TooBigError(ValueError):
    """The value has too many digits to be worth computing."""


class _NotRationalError(ValueError):
    """The text is not rational arithmetic."""


def evaluate(text: str) -> Fraction | None:
    """The exact value, or None when the text is something else; raises :class:`TooBigError`."""
    plain = _PLAIN.fullmatch(text)
    if plain and (plain[2] or plain[3]):
        digits = (plain[2] or "0").replace(",", "").replace(" ", "")
        return _decimal(plain[1], digits, plain[3] or "")
    if ratio := _RATIO.fullmatch(text):
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    reader = _Reader(text)
    try:
        value = reader.sum()
    except (_NotRationalError, ZeroDivisionError):
        return None
    return value if reader.at_end() else None


def _decimal(sign: str, whole: str, decimals: str) -> Fraction:
    value = Fraction(int(whole + decimals), 10 ** len(decimals))
    return -value if sign == "-" else value


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise TooBigError
    return value


def _small_integer(value: Fraction, limit: int) -> int:
    if value.denominator != 1:
        raise _NotRationalError
    if abs(value) > limit:
        raise TooBigError
    return int(value)


class _Reader:
    """One pass over the text; each method reads one rule of the grammar and returns its value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def at_end(self) -> bool:
        self._space()
        return self._at == len(self._text)

    def sum(self) -> Fraction:
        value = self._product()
        while operator := self._take("+", "-"):
            right = self._product()
            value = _bounded(value + right if operator == "+" else value - right)
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while True:
            operator = self._take("*", "/")
            if operator == "/":
                value = _bounded(value / self._signed())
            elif operator or self._sees(*_FACTOR_STARTS):
                value = _bounded(value * self._signed())
            else:
                return value

    def _signed(self) -> Fraction:
        sign = self._take("-", "+")
        return -self._power() if sign == "-" else self._power()

    def _power(self) -> Fraction:
        base = self._factorial()
        if not self._take("^"):
            return base
        exponent = _small_integer(self._argument(), _MAX_EXPONENT)
        if base == 0 and exponent <= 0:
            raise _NotRationalError
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and (bits - 1) * abs(exponent) > _MAX_BITS:
            raise TooBigError
        return base**exponent

    def _factorial(self) -> Fraction:
        value = self._atom()
        if not self._take("!"):
            return value
        number = _small_integer(value, _MAX_FACTORIAL)
        if number < 0 or self._sees("!"):
            raise _NotRationalError
        return Fraction(math.factorial(number))

    def _atom(self) -> Fraction:
        if opener := self._take(*_GROUPS):
            return self._group(opener)
        command = self._take("\\frac", "\\binom", "\\sqrt")
        if command == "\\frac":
            return _bounded(self._argument() / self._argument())
        if command == "\\binom":
            top, bottom = (_small_integer(self._argument(), _MAX_BITS) for _ in range(2))
            return Fraction(_binomial(top, bottom))
        return _root(self._argument()) if command else self._number()

    def _group(self, opener: str) -> Fraction:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _NotRationalError
        value = self.sum()
        if not self._take(_GROUPS[opener]):
            raise _NotRationalError
        self._depth -= 1
        if opener in ("\\lfloor", "\\lceil"):
            return Fraction(math.floor(value) if opener == "\\lfloor" else math.ceil(value))
        return abs(value) if opener == "|" else value

    def _argument(self) -> Fraction:
        r"""The argument of a command: a group, or one digit (``\frac12``)."""
        opener = self._take("{", "(")
        if opener:
            return self._group(opener)
        digit = self._text[self._at : self._at + 1]
        if digit not in tuple("0123456789"):
            raise _NotRationalError
        self._at += 1
        return Fraction(int(digit))

    def _number(self) -> Fraction:
        match = _NUMBER.match(self._text, self._at)
        if match is None or not (match[1] or match[2]):
            raise _NotRationalError
        self._at = match.end()
        whole, decimals = match[1], match[2] or ""
        value = _decimal("", whole or "0", decimals)
        if period := match[3] or match[4]:
            value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))
        if match[5]:
            value *= Fraction(10) ** _small_integer(Fraction(int(match[5])), _MAX_BITS // 4)
        elif whole and match[2] is None:
            value += self._mixed_part()
        return value

    def _mixed_part(self) -> Fraction:
        r"""The fraction of a mixed number (``2\frac{5}{8}``, ``2 5/8``), which is an addition, not a product."""
        match = _MIXED.match(self._text, self._at)
        if match is None:
            return Fraction(0)
        top, bottom = (int(digits) for digits in match.groups() if digits)
        if top >= bottom:
            raise _NotRationalError
        self._at = match.end()
        return Fraction(top, bottom)

    def _space(self) -> None:
        while self._text.startswith(" ", self._at):
            self._at += 1

    def _sees(self, *tokens: str) -> bool:
        self._space()
        return self._text.startswith(tokens, self._at)

    def _take(self, *tokens: str) -> str:
        """The first of the tokens that stands here, which is consumed; ``""`` when none does."""
        self._space()
        for token in tokens:
            if self._text.startswith(token, self._at):
                self._at += len(token)
                return token
        return ""


def _binomial(top: int, bottom: int) -> int:
    if not 0 <= bottom <= top:
        raise _NotRationalError
    if top > _MAX_FACTORIAL:
        raise TooBigError
    return math.comb(top, bottom)


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise _NotRationalError
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top != value.numerator or bottom * bottom != value.denominator:
        raise _NotRationalError
    return Fraction(top, bottom)
