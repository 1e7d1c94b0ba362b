r"""The structure of an answer: lists, tuples, intervals, unions, matrices, named values.

Purpose: split an answer into values that can be compared one by one, so that order, brackets and multiplicity are
judged here and exactly, whatever the values are.
Contract: pure and total for a cleaned text (:mod:`.latex`) of bounded depth. Conventions: bare lists and ``\{..\}``
are unordered; ``(a,b)`` and intervals are ordered and keep their brackets; a relation with a name on one side
(``x \le 3``) is the interval it describes; ``a \pm b`` is a list of two; ``x = 5`` is 5 with a name.
Left out: whether two values are equal (:mod:`.exact`, :mod:`.symbolic`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from retool_env.verifier.exact import number
from retool_env.verifier.latex import closing, unwrap

__all__ = ["LEAF", "LIST", "Node", "parse"]

LEAF, LIST, UNION, MATRIX = "leaf", "list", "union", "matrix"

_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|ell|Delta|Omega"
_NAME_ATOM = rf"(?:\\angle ?[A-Z]+|\\(?:{_GREEK})(?![A-Za-z]) ?|[A-Za-z]+)'*(?:_\{{\w+\}})?(?:\([^()=]*\))?"
_NAME = (
    rf"(?:{_NAME_ATOM}|\|[A-Z]+\||\({_NAME_ATOM}(?:, ?{_NAME_ATOM})*\)|\\frac ?\{{[A-Za-z]+\}}\{{[A-Za-z]+\}}"
    rf"|{_NAME_ATOM} ?[:/] ?{_NAME_ATOM}|\\text ?\{{[A-Za-z ]+\}})"
)
_IS_NAME = re.compile(rf"\s*{_NAME}\s*(?:\\circ\s*)?")
_IS_SUM = re.compile(rf"\s*{_NAME_ATOM}(?:\s*[+*]\s*{_NAME_ATOM})+\s*")
_SEPARATOR = re.compile(
    r"\\text ?\{[ ,]*(?:and|or)[ ,]*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\\\|\\l?or(?![a-z])|[,;]"
)
_CONGRUENCE = re.compile(r"(.*?)\\equiv ?(.*?)(?:\\pmod ?\{?(\w+)\}?|\(\\text ?\{mod ?\} ?(\w+)\))")
_RELATION = re.compile(r"\\(le|ge)(?![A-Za-z])|([<>])")
_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_MEMBER = re.compile(rf"\s*({_NAME})\s*\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(r"\\\{\s*[A-Za-z]+(?:\s*\\in\s*\\mathbb\s*\{[A-Z]\})?\s*[|:](.*)\\\}", re.DOTALL)
_MATRIX = re.compile(r"\[?\(?\\begin\{([a-zA-Z]*matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\1\}\)?\]?", re.DOTALL)
_REALS = re.compile(r"\\mathbb ?\{?R\}?|\\R|\\Reals")
_FLIPPED = {"ge": "le", ">": "<"}
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A part of an answer.

    Attributes:
        kind: ``leaf``, ``list``, ``union``, ``matrix``, or the two brackets of a tuple or interval: ``()``, ``[)``.
        text: the value of a leaf, without the name.
        source: the part as written, with the name and the relation.
        name: what the value belongs to: ``x`` in ``x = 5``.
        items: the parts of anything but a leaf.
    """

    kind: str = LEAF
    text: str = ""
    source: str = ""
    name: str = ""
    items: tuple[Node, ...] = ()

    @property
    def sums(self) -> bool:
        """The name is a sum such as ``m+n``, which may also be the side of an equation."""
        return _IS_SUM.fullmatch(self.name) is not None


def parse(text: str, *, as_list: bool = False) -> Node:
    """The structure of a cleaned answer; ``as_list`` reads ``100,200`` as two numbers."""
    text = unwrap(text.strip())
    if number(text) is not None and not (as_list and "," in text):
        return Node(text=text, source=text)
    items = [part for part in _split(text, _SEPARATOR) if part]
    if len(items) > 1:
        return _joined(LIST, text, [parse(item) for item in items])
    return _single(items[0] if items else text)


def _single(text: str) -> Node:
    builder = _BUILDER.fullmatch(text)
    if builder:
        return replace(parse(builder[1]), name="", source=text)
    member = _MEMBER.match(text)
    if member:
        return replace(parse(text[member.end() :]), name=_bare(member[1]), source=text)
    if congruence := _CONGRUENCE.fullmatch(text):
        name = f"{_bare(congruence[1])} mod {congruence[3] or congruence[4]}"
        return replace(parse(congruence[2]), name=name, source=text)
    text = text.split("\\approx")[0].strip() or text
    name, value = _named(text)
    if name:
        return replace(parse(value), name=name, source=text)
    return _interval(text) or _grouped(value)


def _named(text: str) -> tuple[str, str]:
    """The name and the value of ``x = 5``, ``m+n = 34``, ``x = y = 2+3 = 5``; no name for any other equation."""
    sides = [side.strip() for side in _split(text, _EQUALS)]
    value, first = sides[-1], sides[0]
    if len(sides) < 2 or _RELATION.search(text):
        return "", text
    known = [number(side) for side in sides[1:]]
    if any(middle is not None and middle != known[-1] for middle in known):
        return "", text
    if value != first and (_IS_NAME.fullmatch(first) or _IS_SUM.fullmatch(first)):
        return _bare(first), value
    same = number(first) is not None and number(first) == known[-1]
    return "", value if same and value != first else text


def _bare(name: str) -> str:
    return "".join(name.split())


def _interval(text: str) -> Node | None:
    """The interval that ``x < 3``, ``3 > x`` or ``1 < x \\le 3`` describes; None for any other relation."""
    signs = [match[1] or match[2] for match in _RELATION.finditer(text)]
    sides = [side.strip() for side in _split(text, _RELATION)]
    if len(sides) not in (2, 3) or len(signs) != len(sides) - 1:
        return None
    if signs[0] in _FLIPPED:
        sides, signs = sides[::-1], [_FLIPPED.get(sign, "") for sign in reversed(signs)]
    if not all(sides) or any(sign not in ("le", "<") for sign in signs):
        return None
    if len(sides) == 2:
        sides, signs = (
            ([*sides, "\\infty"], [*signs, "<"]) if _is_name(sides[1]) else (["-\\infty", *sides], ["<", *signs])
        )
    low, name, high = sides
    if not _is_name(name) or _is_name(low) or _is_name(high):
        return None
    brackets = ("[" if signs[0] == "le" else "(") + ("]" if signs[1] == "le" else ")")
    return replace(_joined(brackets, text, [parse(low), parse(high)]), name=_bare(name))


def _is_name(text: str) -> bool:
    return _IS_NAME.fullmatch(text) is not None


def _grouped(text: str) -> Node:
    if _REALS.fullmatch(text):
        return _joined("()", text, [Node(text="-\\infty", source=""), Node(text="\\infty", source="")])
    if text in ("\\emptyset", "\\{\\}", "\\{ \\}"):
        return Node(kind=LIST, source=text)
    if matrix := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in matrix[2].split("\\\\") if row.strip()]
        return _joined(MATRIX, text, [_joined(MATRIX, "", [parse(cell) for cell in row]) for row in rows])
    parts = _split(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(parts) > 1:
        return _joined(UNION, text, [parse(part) for part in parts])
    if text.startswith("\\{") and closing(text, 1) == len(text) - 1:
        inside = parse(text[2:-2], as_list=True)
        return inside if inside.kind in (LIST, LEAF) else _joined(LIST, text, [inside])
    if text[:1] in ("(", "[") and closing(text, 0) == len(text) - 1:
        return _bracketed(text)
    if text.count("\\pm") == 1:
        return _joined(LIST, text, [Node(text=text.replace("\\pm", sign), source=text) for sign in "+-"])
    return Node(text=text, source=text)


def _bracketed(text: str) -> Node:
    inside = parse(text[1:-1], as_list=True)
    if inside.kind == LIST and len(inside.items) > 1 and not inside.name:
        return _joined(text[0] + text[-1], text, list(inside.items))
    return inside if text[0] == "(" and text[-1] == ")" else Node(text=text, source=text)


def _joined(kind: str, source: str, items: list[Node]) -> Node:
    """A node of these items, where a list inside of a list is part of it."""
    if kind == LIST:
        items = [inner for item in items for inner in (item.items if item.kind == LIST else (item,))]
    return Node(kind=kind, source=source, items=tuple(items))


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts between the separators that stand outside of all brackets and environments."""
    parts, start, depth, position = [], 0, 0, 0
    while position < len(text):
        char = text[position]
        depth += (char in _OPENING) - (char in _CLOSING) + text.startswith("\\begin{", position)
        depth -= text.startswith("\\end{", position)
        match = separator.match(text, position) if depth == 0 else None
        if match:
            parts.append(text[start:position].strip())
            start = match.end()
        position = match.end() if match else position + 1
    return [*parts, text[start:].strip()]
