r"""Readings of one answer that only the other one makes plausible.

Purpose: some notations mean two things, and the other side says which: ``1000,99`` is a list or a decimal with a comma,
``x=2, y=3`` is a list of values or the point ``(2, 3)``, a column is a matrix or the tuple of its entries.
Contract: pure; :func:`agree` returns both answers in the reading in which they can be compared, and leaves them as they
are where there is only one. A reading is chosen by the *form* of the other side, never by its value.
Left out: the comparison itself (:mod:`.compare`).
"""

from __future__ import annotations

import re
from dataclasses import replace

from retool_env.verifier.exact import number
from retool_env.verifier.names import is_sum
from retool_env.verifier.shape import LEAF, LIST, MATRIX, Node, parse

__all__ = ["agree", "congruent", "is_equation_of_sums", "same_name"]

_DECIMAL_COMMA = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:[ .][0-9]{3})+),([0-9]{2,})")
_DECIMAL_POINT = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?\.([0-9]{2,})")
_FUNCTION = re.compile(r"[A-Za-z]\([A-Za-z]\)")
_INDEXED = re.compile(r"_\{[0-9]\}\Z")
_COORDINATES = frozenset("xyz")


def agree(pred: Node, gold: Node) -> tuple[Node, Node]:
    """Both answers in the reading that fits."""
    return _towards(pred, gold), _towards(gold, pred)


def _towards(node: Node, other: Node) -> Node:
    if node.kind == LEAF and other.kind == LIST and "," in node.text:
        return parse(node.text, as_list=True)
    if node.kind == LIST and other.kind == LEAF and _is_decimal_comma(node.source, other.text):
        return _with_point(node)
    if node.kind == LIST and other.kind == "()":
        return _point(node) or node
    if node.kind == MATRIX and other.kind == "()":
        return _column(node) or node
    return node


def _is_decimal_comma(text: str, other: str) -> bool:
    """``1000,99`` beside ``1000.99``: as many decimals, at least two, and not the groups of ``1,000``."""
    comma, point = _DECIMAL_COMMA.fullmatch(text), _DECIMAL_POINT.fullmatch(other)
    return bool(comma and point and len(comma[1]) == len(point[1]))


def _with_point(node: Node) -> Node:
    text = re.sub(r"[ .]", "", node.source).replace(",", ".")
    return Node(text=text, source=text)


def _point(node: Node) -> Node | None:
    """``x=2, y=3`` as the point ``(2, 3)``: one value for each of several names, in the order of the names."""
    names = [item.name for item in node.items]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        return None
    ordered = sorted(node.items, key=lambda item: item.name)
    return Node(kind="()", source=node.source, items=tuple(replace(item, name="") for item in ordered))


def _column(node: Node) -> Node | None:
    """A matrix of one row or one column as the tuple of its entries."""
    rows = [row.items for row in node.items]
    if len(rows) == 1:
        return Node(kind="()", source=node.source, items=rows[0])
    if all(len(row) == 1 for row in rows):
        return Node(kind="()", source=node.source, items=tuple(row[0] for row in rows))
    return None


def same_name(pred: str, gold: str) -> bool:
    """The names do not contradict each other: one is missing or without its index, or ``y`` stands for ``f(x)``."""
    if not pred or not gold or pred == gold:
        return True
    if any(_INDEXED.sub("", two) == one for one, two in ((pred, gold), (gold, pred))):
        return True
    if any(one.startswith(" mod ") and two.endswith(one) for one, two in ((pred, gold), (gold, pred))):
        return True
    return any(one == "y" and _FUNCTION.fullmatch(two) for one, two in ((pred, gold), (gold, pred)))


def is_equation_of_sums(name: str) -> bool:
    """A gold such as ``x+y = 1`` is the equation of a line, which the bare 1 does not say; ``m+n = 34`` is a value."""
    plain = re.fullmatch(r"[^0-9-]*", name) is not None
    return is_sum(name) and not (plain and set(re.findall(r"[a-z]", name)) - _COORDINATES)


def congruent(pred: Node, gold: Node) -> bool:
    r"""``x \equiv 12 \pmod 7`` is ``x \equiv 5 \pmod 7``."""
    _, found, modulus = gold.name.rpartition("mod")
    values = number(pred.text), number(gold.text), number(modulus)
    if not found or pred.name != gold.name or None in values:
        return False
    left, right, base = (value for value in values if value is not None)
    return base > 0 and (left - right) % base == 0
