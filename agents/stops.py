"""Where a turn ends: finds stop strings in ids, for agents that do not watch every id themselves."""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.tokenizer import Tokenizer

__all__ = ["end_of_turn"]


def end_of_turn(ids: Sequence[int], stop: Sequence[str], tokenizer: Tokenizer) -> int | None:
    """How many ids the turn has, up to the one that completes a stop string; ``None`` when there is no stop string.

    Ids are never split: the last one may hold text behind the stop string.
    """
    if not any(text in tokenizer.decode(ids) for text in stop):
        return None
    low, high = 1, len(ids)
    while low < high:
        middle = (low + high) // 2
        found = any(text in tokenizer.decode(ids[:middle]) for text in stop)
        low, high = (low, middle) if found else (middle + 1, high)
    return low
