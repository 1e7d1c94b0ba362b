r"""Answers that are words: multiple-choice letters, names, "yes" and "no".

Purpose: compare words as words, whatever their case and whether or not they are marked as text.
Contract: pure, on cleaned leaves (:mod:`.latex`). :func:`same_words` returns None when neither side is made of words.
Left out: lists of words (:mod:`.shape`) and numbers written as words.
"""

from __future__ import annotations

import re

__all__ = ["TEXT", "same_words"]

TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_CHOICE = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-J])\)?", re.IGNORECASE)
_LABEL = re.compile(r"(?:\(([A-J])\)|([A-J])[.):]) +(?![+*/^=,])")
_LABELS = re.compile(r"\(([A-J])\)")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
# Lower-case words that are too short to be told from a product of variables by their length.
_SHORT_WORDS = frozenset(["yes", "no", "odd", "all", "top", "one", "two", "six", "ten", "red"])
_HYPHEN = re.compile(r"(?<=\w)-(?=\w)")
_ARTICLE = re.compile(r"(?:an?|the) (?=\w\w)")
_SAME = {"dne": "does not exist", "infinitely many solutions": "infinitely many"}


def same_words(pred: str, gold: str) -> bool | None:
    """Whether two choices or two wordings agree; None when the gold is neither."""
    left, right = (TEXT.sub(r" \1 ", text).strip(" .") for text in (pred, gold))
    choices = _choices(right)
    if choices:
        return _choices(left) == choices
    if not _WORDS.fullmatch(right) or len(right) < 2:
        return None
    same = _canonical(left) == _canonical(right)
    if _is_words(gold, right):
        return same
    # "\text{no}" for the gold "no": marked on one side only.
    return True if same and _is_words(pred, left) else None


def _choices(text: str) -> list[str]:
    """The chosen letters: one for ``(C)``, and for ``(C) 34`` and ``C. 34``, which repeat the choice with its value."""
    single = _CHOICE.fullmatch(text)
    if single and single[1].isupper():
        return [single[1]]
    label = _LABEL.match(text)
    if label is None:
        return []
    return [label[2]] if label[2] else _LABELS.findall(text)


def _canonical(text: str) -> str:
    words = _ARTICLE.sub("", " ".join(_HYPHEN.sub(" ", text.casefold()).split()))
    return _SAME.get(words, words)


def _is_words(source: str, plain: str) -> bool:
    """Words rather than a product of variables: marked as text, capitalised, known, or long."""
    if not _WORDS.fullmatch(plain) or len(plain) < 2:
        return False
    if "\\text" in source or plain.casefold() in _SHORT_WORDS:
        return True
    # "R-r" and "AB" are expressions, whose letters differ from "r-R" and "ab".
    return max(map(len, re.split("[ '-]", plain))) > (2 if plain[0].isupper() else 3)
