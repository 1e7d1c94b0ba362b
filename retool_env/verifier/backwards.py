"""Search a text from its end.

Purpose: what counts in a response stands near its end, so a search from the start would read a megabyte for nothing.
Contract: linear in the part that is read; the matches come from the last to the first, and are the ones that a search
from the start finds as long as they do not overlap and are at most ``_OVERLAP`` characters long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["matches_from_end"]

_WINDOW = 8192
_OVERLAP = 64


def matches_from_end(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The matches of a short pattern, the last one first."""
    for start in range((len(text) - 1) // _WINDOW * _WINDOW, -1, -_WINDOW):
        stop = start + _WINDOW
        found = [match for match in pattern.finditer(text, start, stop + _OVERLAP) if match.start() < stop]
        yield from reversed(found)
