r"""What algebra is asked about two leaves that could not be decided exactly.

Purpose: bring units, percent signs and degrees of two values into the expressions themselves.
Contract: pure. ``3\sqrt{2} \text{ cm}`` becomes ``3\sqrt{2}``; ``1/2 x`` is read from left to right, as half of x;
degrees inside of an expression become radians, so that ``\sin 30^\circ`` is a half; a value in degrees meets one that
is written with ``\pi`` as radians (``90^\circ`` is ``\frac{\pi}{2}``) and any other one as its number.
Left out: whether the expressions are equal (:mod:`.symbolic`).
"""

from __future__ import annotations

import re

from retool_env.verifier.exact import measured
from retool_env.verifier.units import Measured

__all__ = ["expressions", "left_to_right"]

_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?|(?<![A-Za-z])[a-zA-Z]|\)) ?\\circ(?![A-Za-z])")
_QUOTIENT = re.compile(r"(?<![0-9A-Za-z.})^_])([0-9]+) ?/ ?([0-9]+)(?![0-9.])")
_RADIANS = re.compile(r"\\(?:pi|arcsin|arccos|arctan)(?![A-Za-z])")


def left_to_right(text: str) -> str:
    r"""Numeric quotients as fractions: the parser would take ``1/2 x`` for ``\frac{1}{2x}``."""
    return _QUOTIENT.sub(r"\\frac{\1}{\2}", text)


def expressions(pred: str, gold: str) -> tuple[str, str]:
    """Both leaves as expressions without units."""
    left, right = measured(pred), measured(gold)
    return _expression(left, other=right), _expression(right, other=left)


def _expression(leaf: Measured, *, other: Measured) -> str:
    text = _DEGREES.sub(r"\1 \\frac{\\pi}{180}", leaf.body)
    if leaf.unit == "degree" != other.unit and _RADIANS.search(other.body):
        text = rf"({text}) \frac{{\pi}}{{180}}"
    if leaf.percent and not other.percent:
        text = rf"\frac{{{text}}}{{100}}"
    return f"({text}) * {leaf.scale}" if leaf.scale != 1 else text
