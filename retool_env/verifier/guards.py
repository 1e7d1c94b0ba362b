r"""What may be handed to the computer algebra system.

Purpose: refuse, before any evaluation, what cannot be an answer or would cost more than it can be worth.
Contract: pure, linear for the short texts it sees. The rule is a list of what is allowed (characters, commands,
short words), not of what is forbidden, so no text that could mean something to an interpreter gets through.
Reasons: ``too_long``, ``too_deep``, ``too_big``, ``unparsable``.
Left out: the time limit, which the worker process enforces (:mod:`.symbolic`).
"""

from __future__ import annotations

import re

from retool_env.verifier.latex import closing

__all__ = ["MAX_ANSWER_CHARS", "refused", "shape_refused"]

MAX_ANSWER_CHARS = 1000
_MAX_ALGEBRA_CHARS = 400
_MAX_DEPTH = 30
_MAX_POWERS = 16
_MAX_TOWER = 2
_MAX_EXPONENT_DIGITS = 4
_MAX_EXPONENT = 2000
_MAX_DIGITS = 60

_FUNCTIONS = (
    "frac sqrt pi ln log exp sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh binom lfloor rfloor lceil "
    "rceil overline infty le ge ne in cup cap setminus emptyset mathbb"
)
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta "
    "theta iota kappa lambda mu nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi "
    "Omega"
)
_COMMANDS = frozenset([*_FUNCTIONS.split(), *_GREEK.split()])
_CHARACTERS = re.compile(r"[A-Za-z0-9 +\-*/^_=<>(){}\[\]|!.,:\\]*")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)")
_WORD = re.compile(r"[A-Za-z]{4,}")
_NUMBER = re.compile(r"[0-9]+")
_FACTORIAL = re.compile(r"!\s*!|[0-9]{4,}\s*!|[0-9]\)\s*!")
_SPACED_DIGITS = re.compile(r"[0-9] +[0-9]")
_BASED = re.compile(r"[0-9]\s*_")
_DANGLING = re.compile(r"[+\-*/^_=<>]\s*\Z|\A\s*[*/^_=<>]")
_TRANSPOSED = re.compile(r"\^\s*\{\s*T\s*\}")
# What the parser reads as something else without complaint: "3 4" and "34_8" as 34, a transposed symbol as itself.
_MISREAD = (_SPACED_DIGITS, _BASED, _DANGLING, _TRANSPOSED)


def shape_refused(text: str) -> str:
    """Why the text is not even split into parts; ``""`` when it may be."""
    if len(text) > MAX_ANSWER_CHARS:
        return "too_long"
    return "too_deep" if _nesting(text)[0] > _MAX_DEPTH else ""


def refused(text: str) -> str:
    """Why the text is not given to the algebra system; ``""`` when it may be."""
    if len(text) > _MAX_ALGEBRA_CHARS:
        return "too_long"
    if not _CHARACTERS.fullmatch(text) or not _nesting(text)[1] or text.count("|") % 2:
        return "unparsable"
    if any(name not in _COMMANDS and name not in "{}" for name in _COMMAND.findall(text)):
        return "unparsable"
    if _WORD.search(_COMMAND.sub(" ", text)) or any(misread.search(text) for misread in _MISREAD):
        return "unparsable"
    return "too_big" if _is_big(text) else ""


def _nesting(text: str) -> tuple[int, bool]:
    """The deepest nesting, and whether every bracket has its partner (of any kind: ``[0,1)``)."""
    depth = deepest = lowest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest, lowest = max(deepest, abs(depth)), min(lowest, depth)
    return deepest, depth == lowest == 0


def _is_big(text: str) -> bool:
    if text.count("^") > _MAX_POWERS or _FACTORIAL.search(text):
        return True
    if any(len(digits) > _MAX_DIGITS for digits in _NUMBER.findall(text)):
        return True
    return any(_is_big_exponent(exponent) for exponent in _exponents(text))


def _exponents(text: str) -> list[str]:
    starts = [match.end() for match in re.finditer(r"\^\s*(?=\{)", text)]
    return [text[start : closing(text, start) + 1] for start in starts]


def _is_big_exponent(exponent: str) -> bool:
    """A large number, or a tower of powers that is too high or made of numbers alone."""
    numbers = _NUMBER.findall(exponent)
    if any(len(digits) > _MAX_EXPONENT_DIGITS or int(digits) > _MAX_EXPONENT for digits in numbers):
        return True
    towers = exponent.count("^")
    return towers >= _MAX_TOWER or (towers > 0 and not re.search(r"[A-Za-z]", _COMMAND.sub("", exponent)))
