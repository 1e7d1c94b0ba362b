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

from retool_env.verifier.exact import decide, number
from retool_env.verifier.intervals import RELATION, Region, read_punctured, read_region
from retool_env.verifier.latex import closing, unwrap
from retool_env.verifier.names import bare, is_name, is_quantity, is_sum, label, split

__all__ = ["LEAF", "LIST", "Node", "parse"]

LEAF, LIST, UNION, MATRIX = "leaf", "list", "union", "matrix"

_SEPARATOR = re.compile(
    r"\\text ?\{[ ,]*(?:and|or)[ ,]*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|\\\\|\\l?or(?![a-z])|[,;]"
)
_CONGRUENCE = re.compile(r"(?:(.*?)\\equiv ?)?(.*?)(?:\\pmod ?\{?(\w+)\}?|\((?:\\text ?\{ ?mod ?\}|mod) ?(\w+)\))")
_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")
_MEMBER = re.compile(r"\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(r"\\\{\s*[A-Za-z]+(?:\s*\\in\s*\\mathbb\s*\{[A-Z]\})?\s*[|:](.*)\\\}", re.DOTALL)
_MATRIX = re.compile(
    r"(?:([^&]*?) ?\*? ?)??\[?\(?\\begin\{([pbB]?(?:small)?matrix|array)\}(?:\{[clr| ]*\})?(.*)\\end\{\2\}\)?\]?",
    re.DOTALL,
)
_UNIT_AND = re.compile(r"\\text ?\{ ?([A-Za-z]+),? (and|or) ?\}(?=.)")
_REALS = re.compile(r"\\mathbb ?\{?R\}?|\\R|\\Reals|(?:\\text ?\{ ?)?all real(?:s| numbers)(?: ?\})?")
# An interval in the notation that turns the bracket of an open end: "]0,1[".
_TURNED = re.compile(r"\A([\[\]])([^\[\]]+)([\[\]])\Z")
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_EMPTY = re.compile(
    r"\\emptyset|\\\{ ?\\\}|(?:\\text ?\{ ?)?(?:no (?:solutions?|roots?)|(?:the )?empty set)(?: ?\})?", re.IGNORECASE
)
# "k \in \mathbb{Z}" behind "2k\pi" says what k is, and "x \in \mathbb{R}" behind "x > 2" says nothing new.
_CONDITION = re.compile(r"(.*?)[,;]? ?\(? ?([A-Za-z]) ?\\in ?\\mathbb ?\{?([ZR])\}? ?\)?")
_SIGNS = re.compile(r"\\pm(?![A-Za-z])")
_WORD_LIST = re.compile(r"\\text ?\{([A-Za-z ,;'-]+)\}")
_WORD_SEPARATOR = re.compile(r"\s*[,;]\s*(?:and |or )?|\s+(?:and|or)\s+")


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
        return is_sum(self.name)


def parse(text: str, *, as_list: bool = False) -> Node:
    """The structure of a cleaned answer; ``as_list`` reads ``100,200`` as two numbers."""
    text = _unconditional(_TURNED.sub(_usual_brackets, unwrap(text.strip())))
    if number(text) is not None and not (as_list and "," in text):
        return Node(text=text, source=text)
    if words := _WORD_LIST.fullmatch(text):
        text = ",".join(f"\\text{{{word}}}" for word in _WORD_SEPARATOR.split(words[1].strip()))
    items = [part for part in split(_UNIT_AND.sub(r"\\text{\1} \2 ", text), _SEPARATOR) if part]
    if punctured := read_punctured(items):
        return _region_node(punctured, text)
    if len(items) > 1:
        return _joined(LIST, text, [parse(item) for item in items])
    return _single(items[0] if items else text)


def _unconditional(text: str) -> str:
    """The text without what it says at its end about a parameter."""
    match = _CONDITION.fullmatch(text)
    if match is None or match[2] not in match[1].replace("\\in", ""):
        return text
    related = RELATION.search(match[1]) is not None
    return match[1].strip() if related == (match[3] == "R") else text


def _usual_brackets(match: re.Match[str]) -> str:
    if not any(separator in match[2] for separator in ",;"):
        return match[0]
    return f"{'(' if match[1] == ']' else '['}{match[2]}{')' if match[3] == '[' else ']'}"


def _single(text: str) -> Node:
    builder = _BUILDER.fullmatch(text)
    if builder:
        return replace(parse(builder[1]), name="", source=text)
    member = split(text, _MEMBER)
    if len(member) == 2 and is_name(member[0]):
        return replace(parse(member[1]), name=bare(member[0]), source=text)
    if congruence := _CONGRUENCE.fullmatch(text):
        name = f"{bare(congruence[1] or '')} mod {congruence[3] or congruence[4]}"
        return replace(parse(congruence[2]), name=name, source=text)
    text = text.split("\\approx")[0].strip() or text
    name, value = _named(text)
    if name:
        return replace(parse(value), name=name, source=text)
    region = read_region(text)
    return _region_node(region, text) if region else _grouped(value)


def _named(text: str) -> tuple[str, str]:
    """The name and the value of ``x = 5``, ``5 = x``, ``m+n = 34``, ``x = y = 2+3 = 5``; no name in other cases."""
    sides = [side.strip() for side in split(text, _EQUALS)]
    value, first = sides[-1], sides[0]
    if len(split(text, RELATION)) > 1:
        return "", text
    if len(sides) < 2:
        return label(text)
    known = [side for side in sides[1:] if number(side) is not None]
    if any(decide(side, value) != "equal" for side in known if number(value) is not None):
        return "", text
    if len(sides) == 2 and (is_name(value) or is_quantity(value)) and number(first) is not None:
        return bare(value), first
    # "a+3z = 0" is an equation, and no value of a sum.
    if value != first and (is_name(first) or is_quantity(first) or (is_sum(first) and number(value) != 0)):
        return bare(first), value
    same = number(first) is not None and decide(first, value) == "equal"
    return "", value if same and value != first else text


def _region_node(region: Region, text: str) -> Node:
    parts = [
        _joined(interval.brackets, text, [parse(interval.low), parse(interval.high)]) for interval in region.intervals
    ]
    node = parts[0] if len(parts) == 1 else _joined(UNION, text, parts)
    return replace(node, name=bare(region.name))


def _grouped(text: str) -> Node:
    if _REALS.fullmatch(text):
        return _joined("()", text, [Node(text="-\\infty", source=""), Node(text="\\infty", source="")])
    if _EMPTY.fullmatch(text):
        return Node(kind=LIST, source=text)
    if cases := _CASES.fullmatch(text):
        return parse(cases[1])
    if matrix := _MATRIX.fullmatch(text):
        factor = f"({matrix[1]}) * " if matrix[1] else ""
        rows = [row.split("&") for row in matrix[3].split("\\\\") if row.strip()]
        cells = [[parse(f"{factor}({cell})" if factor else cell) for cell in row] for row in rows]
        return _joined(MATRIX, text, [_joined(MATRIX, "", row) for row in cells])
    parts = split(text, re.compile(r"\\cup(?![A-Za-z])"))
    if len(parts) > 1:
        return _joined(UNION, text, [parse(part) for part in parts])
    if text.startswith("\\{") and closing(text, 1) == len(text) - 1:
        inside = parse(text[2:-2], as_list=True)
        if inside.kind == LIST:
            # In a set, an element said twice is there once.
            return replace(inside, items=tuple(dict.fromkeys(inside.items)))
        return inside if inside.kind == LEAF or inside.name else _joined(LIST, text, [inside])
    if text[:1] in ("(", "[") and closing(text, 0) == len(text) - 1:
        return _bracketed(text)
    if len(_SIGNS.findall(text)) == 1:
        return _joined(LIST, text, [Node(text=_SIGNS.sub(sign, text), source=text) for sign in "+-"])
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
