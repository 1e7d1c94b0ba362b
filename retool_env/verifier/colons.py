"""Times of day and ratios of three or more parts.

Purpose: ``20:34`` is the time ``20:34:00``, ``2:30 PM`` is ``14:30``, and ``1:2:3`` is the ratio ``2:4:6``.
Contract: pure, on leaves without spaces. None when a side is neither; ratios of two parts are fractions and are decided
as such (:mod:`.arithmetic`).
Left out: durations in words, dates, time zones.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["same_parts"]

_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?(?: ?([ap])\.?m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?(?::[0-9]{1,9}(?:\.[0-9]{1,9})?){2,9}")


def same_parts(pred: str, gold: str) -> bool | None:
    """Whether two times or two ratios are equal; None when they are not both of one kind."""
    if ":" not in pred or ":" not in gold:
        return None
    left, right = _CLOCK.fullmatch(pred), _CLOCK.fullmatch(gold)
    if left and right and any(match[3] or match[4] for match in (left, right)):
        return _same_time(left, right)
    if _RATIO.fullmatch(pred) and _RATIO.fullmatch(gold):
        ours, theirs = ([Fraction(part) for part in text.split(":")] for text in (pred, gold))
        return len(ours) == len(theirs) and all(a * theirs[0] == b * ours[0] for a, b in zip(ours, theirs, strict=True))
    return None


def _same_time(left: re.Match[str], right: re.Match[str]) -> bool:
    if left[4] and right[4]:
        return _hour(left) == _hour(right) and _below_hour(left) == _below_hour(right)
    hours = {_hour(left), int(left[1])} & {_hour(right), int(right[1])}
    return bool(hours) and _below_hour(left) == _below_hour(right)


def _hour(match: re.Match[str]) -> int:
    """On the 24 hour clock."""
    hour = int(match[1])
    return hour if not match[4] else hour % 12 + (12 if match[4].lower() == "p" else 0)


def _below_hour(match: re.Match[str]) -> tuple[int, int]:
    return int(match[2]), int(match[3] or 0)
