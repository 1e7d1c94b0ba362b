r"""Whether a response takes its marked answer back.

Purpose: ``\boxed{34} is wrong`` and ``it is not \boxed{34}`` do not commit to 34.
Contract: pure; looks at a bounded stretch before and after the marker. Only plain statements count, in the words that
directly touch the marker or in the sentence right behind it; "it is not hard to get \boxed{34}" stands. A statement
about something narrower takes nothing back: "this is not true for n = 1", "it is false that others work", "not the
answer I expected". What was taken back is no answer at all, even if another one was marked earlier: which of them is
meant, nobody can tell.
Left out: every subtler doubt ("I am not sure").
"""

from __future__ import annotations

import re

__all__ = ["retracted"]

_MAX_BEFORE, _MAX_AFTER = 40, 120
_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot)|n't) (?:be |equals? |equal to |simply |just )*[\s$(*_\\\[{]*\Z",
    re.IGNORECASE,
)
_CASE = r"if|when|whenever|unless|with|without"
_LIMITS = rf"\b(?!\s+(?:{_CASE}|for|in|that|under|outside)\b)"
_FORESEEN = r"(?:expect|guess|think|thought|hope|imagin|anticipat)"
_ANSWER = (
    r"(?:the|our|my) (?:(?:final|right|correct|actual|desired) )?(?:answer|solution|result)\b"
    rf"(?!\s+(?:(?:{_CASE})\b|(?:that |which )?(?:I|we|you|one|many|most)\b(?:\s\w+)?\s{_FORESEEN}))"
)
_RIGHT = rf"(?:(?:right|correct|true|valid){_LIMITS}|{_ANSWER})"
_AFTER = re.compile(
    r"[\s$)}\]*_`.,;:\\-]*(?:no, )?(?:(?:but|and|however,?) )?(?:(?:that|this|it|which|the answer) )?"
    rf"(?:(?:is|was|are|seems|looks) (?:\w+ly )?(?:(?:wrong|incorrect|false){_LIMITS}|not {_RIGHT})"
    rf"|(?:isn't|wasn't|is n't|cannot be|can't be) {_RIGHT})",
    re.IGNORECASE,
)


def retracted(text: str, start: int, end: int) -> bool:
    """Whether the marker at ``text[start:end]`` is negated by what stands right around it."""
    before = text[max(0, start - _MAX_BEFORE) : start]
    return bool(_BEFORE.search(before) or _AFTER.match(text[end : end + _MAX_AFTER]))
