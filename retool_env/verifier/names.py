r"""Names that a value may be given: ``x``, ``f(x)``, ``S_{ABC}``, ``\angle ABC``, ``Minimum``.

Purpose: tell the name in ``x = 5`` or ``3 < \lambda \le 4`` from an expression that is part of the answer.
Contract: pure, for cleaned texts (:mod:`.latex`). :func:`split` cuts a text outside of all brackets.
Left out: what is done with a named value (:mod:`.shape`, :mod:`.compare`).
"""

from __future__ import annotations

import re

from retool_env.verifier.units import HEDGES

__all__ = ["bare", "is_name", "is_quantity", "is_sum", "label", "split"]

_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|ell|Delta|Omega"
_ACCENT = r"\\(?:vec|overrightarrow|hat|bar|overline) ?(?:\{[A-Za-z]+\}|[A-Za-z])"
_INDEX = r"(?:_(?:\{[^{}=<>]+\}|\\(?:max|min)(?![A-Za-z]) ?))?"
_STAR = r"(?:\^ ?(?:\*|\{(?:\*|-1\}(?=\()))\}?)?"
_FIGURE = r"m? ?\\(?:angle|triangle) ?[A-Z]+"
_LETTER = rf"(?:{_FIGURE}|{_ACCENT}|\\(?:{_GREEK})(?![A-Za-z]) ?|[A-Za-z]+)"
_ATOM = rf"{_LETTER}'*{_INDEX}{_STAR}(?:\([^()=]*\){_INDEX})?"
_NAME = (
    rf"(?:{_ATOM}|\|[A-Z]+\||\({_ATOM}(?:, ?{_ATOM})*\)|\\frac ?\{{{_ATOM}\}} ?\{{{_ATOM}\}}"
    rf"|{_ATOM} ?[:/] ?{_ATOM}|\\text ?\{{[A-Za-z ]+\}})"
)
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|log|arg|deg|det|dim|max|min|Re|Im"
_OPERATORS = "sum|prod|int|lim|gcd"
_EXPECTED = r"(?:P|E|\\Pr|\\mathbb ?\{?[PE]\}?|\\text ?\{ ?(?:P|Pr|E|Var|lcm) ?\})"
_QUANTITY = (
    rf"(?:\\(?:{_FUNCTIONS})(?![A-Za-z]) ?{_INDEX} ?(?:[0-9]* ?{_ATOM}|\([^()]*\))|\\(?:{_OPERATORS})(?![A-Za-z]).*"
    rf"|.*\\b?mod(?![A-Za-z]).*|{_EXPECTED} ?(?:\(.*\)|\[.*\])|\[[A-Z]{{3,}}\]"
    r"|\|(?=[^|]*[A-Za-z])[^|]+\||\\\|[^|]+\\\||\\text ?\{[A-Za-z ]+\} ?(?:\\triangle ?)?[A-Z]+)"
)
_IS_QUANTITY = re.compile(rf"\s*{_QUANTITY}\s*")
_IS_NAME = re.compile(rf"\s*{_NAME}\s*(?:\\circ\s*)?")
_TERM = rf"[0-9]*\s*{_ATOM}"
_IS_SUM = re.compile(rf"\s*-?{_TERM}(?:\s*[+*-]\s*{_TERM})+\s*")
_LABEL = re.compile(r"(?:\\text ?\{ ?)?([A-Za-z]{3,}) ?\}? ?: ?(?:\} ?)?(?=\S)")
_EXTREME = re.compile(
    r"\\text ?\{ ?(?:the )?((?:max|min)(?:imum)?)(?: value)?(?: is| of)? ?:? ?\}(?= ?[-+0-9\\])", re.IGNORECASE
)
_NEVER_LABELS = HEDGES | {"false", "except", "excluding", "without"}
_OPENING, _CLOSING = "([{", ")]}"


def is_name(text: str) -> bool:
    """The text is a name and nothing else."""
    return _IS_NAME.fullmatch(text) is not None


def is_quantity(text: str) -> bool:
    r"""The text says what was to be computed, and may stand before ``=``: ``\sin A``, ``P(X = 3)``, ``|z|``, a sum."""
    return _IS_QUANTITY.fullmatch(text) is not None


def is_sum(text: str) -> bool:
    """The text is a sum or product of names, such as ``m+n`` or ``100a+10b+c``."""
    return _IS_SUM.fullmatch(text) is not None


def bare(name: str) -> str:
    """The name without spaces."""
    return "".join(name.split())


def label(text: str) -> tuple[str, str]:
    """The word and the value of ``Minimum: 1``; no word when the text has no such label."""
    match = _EXTREME.match(text) or _LABEL.match(text)
    if match is None or match[1].casefold() in _NEVER_LABELS:
        return "", text
    return match[1], text[match.end() :]


def split(text: str, separator: re.Pattern[str]) -> list[str]:
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
