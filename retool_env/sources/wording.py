"""Questions without the instructions that data sets wrap them in, and when two of them are the same.

Data sets tell the model how to answer, and not in the same way: DAPO wants a line ``Answer: ...`` and pays for a box,
others want ``####``, or a box with quotes in it. The answer format is the dialect's to explain, so the instructions are
taken off and there is one format.

Contract: pure text functions. Only wordings that are listed here are taken off; another one stays in the question.
Left out: questions that are the same in other words.
"""

from __future__ import annotations

import re

__all__ = ["bare_question", "loose_key", "question_key"]

_TEMPLATES = re.compile(
    r"\ASolve the following math problem step by step\..*?answer to the problem\.\s*"
    r"|Remember to put your answer on its own line after \"Answer:\"\.\s*\Z"
    r"|Please reason step by step, and put your final answer within \\boxed\{\}\.?"
    r"|Let's think step by step and output the final answer (?:after \"####\"|within \\boxed\{\})\.?\s*\Z"
    r"|The answer format must be:? \\boxed\{'?The final answer goes here\.'?\}\s*\Z"
    r"|<\|im_start\|>(?:system\n.*?<\|im_end\|>\s*<\|im_start\|>)?user|<\|im_end\|>\s*(?:<\|im_start\|>assistant\s*)?",
    re.DOTALL,
)
_SIGNS = {
    **dict.fromkeys(("cdot", "ast", "·", "⋅", "∗"), "*"),
    **dict.fromkeys(("times", "×"), "×"),
    **dict.fromkeys(("div", "÷"), "/"),
    **dict.fromkeys(("−", "–", "‐"), "-"),
    **dict.fromkeys(("le", "leq", "≤"), "≤"),
    **dict.fromkeys(("ge", "geq", "≥"), "≥"),
    **dict.fromkeys(("ne", "neq", "≠"), "≠"),
    **dict.fromkeys(("mid", "vert", "lvert", "rvert", "|"), "|"),
    **dict.fromkeys(("prime", "′", "’"), "'"),
    **dict.fromkeys("{", "("),
    **dict.fromkeys("}", ")"),
    **dict.fromkeys(("left", "right", "displaystyle", *"\\()[],!;"), " "),
}
"""One sign for its spellings: commands and signs behind a backslash, and characters of Unicode. What LaTeX only lays
out with is a space. A dot and a cross are two signs, because they are two products of vectors.
"""

_SPELLING = re.compile(r"\^ *\{? *\\prime(?![a-zA-Z]) *\}?|\\([a-zA-Z]+|[^\w\s])|[^\x00-\x7f]|[{}]")
_PROSE = re.compile(r"(?<![\w)\]'!])[!']|(?<=[^\W\d_]{2})[!']|'(?=(?:[sdmt]|ll|re|ve)\b)")
_LONE = re.compile(r"\( *(?:([^\W\d_]|[0-9]+(?:\.[0-9]+)?|\\[a-zA-Z]+) *)?\)")
_MOST_NESTED = 8
_LOOKS = r"(?:\.(?![0-9])|[^\w+\-*/^<>=.()\[\]|!'%×±√\u2190-\u22ff\u25a0-\u25ff\u2a00-\u2aff]|_)"
_BETWEEN_DIGITS = re.compile(rf"(?<=[0-9]){_LOOKS}+(?=[0-9])")
_ELSEWHERE = re.compile(_LOOKS)
_CROSS = re.compile(r"(?<=[0-9])×(?=[0-9])")
_GROUPING = "[()\\[\\]|!'%]"


def bare_question(question: str) -> str:
    r"""The question without the instructions of a template.

    >>> bare_question("What is 6 * 7?\n\nPlease reason step by step, and put your final answer within \\boxed{}.")
    'What is 6 * 7?'
    """
    return _TEMPLATES.sub("", question).strip()


def question_key(question: str) -> str:
    r"""What two writings of one question have in common: its letters, digits, operators and brackets.

    Digits that stand apart stay apart: ``\frac{1}{23}`` is not ``\frac{12}{3}``. Brackets around one letter, number or
    command group nothing and do not count; those of LaTeX and of plain text are the same. ``!`` and ``'`` count where
    they are a factorial and a prime, not in prose.

    >>> question_key("What is $6 \\cdot {7}$?") == question_key("what is  6 · 7")
    True
    >>> question_key("2^{x+1}") == question_key("2^(x + 1)") != question_key("2^x+1")
    True
    """
    text = _SPELLING.sub(_sign, " ".join(bare_question(question).split()))
    text = _PROSE.sub(" ", text)
    for _ in range(_MOST_NESTED):
        text, found = _LONE.subn(r" \1 ", text)
        if not found:
            break
    apart = _BETWEEN_DIGITS.sub("~", text)
    return _CROSS.sub("*", "~".join(_ELSEWHERE.sub("", part) for part in apart.split("~"))).casefold()


def loose_key(question: str) -> str:
    r"""A key that more writings share: brackets, bars, ``!``, ``'`` and ``%`` do not count, and a cross is a dot.

    For questions that must not be in training because they are measured on: a problem too few is a small loss there,
    and one that was met in another writing spoils the measurement.

    >>> loose_key(r"$2 \times (3 + 4)$") == loose_key("2 * 3 + 4")
    True
    """
    apart = re.sub(rf"(?<=[0-9]){_GROUPING}+(?=[0-9])", "~", question_key(question))
    return re.sub(_GROUPING, "", apart).replace("×", "*")


def _sign(match: re.Match[str]) -> str:
    """What counts of a command or a character: its one sign, or itself."""
    written = match[0]
    return "'" if written.startswith("^") else _SIGNS.get(match[1] or written, written)
