"""Stop strings in sampled ids, found without decoding every id.

An id can complete a stop string only if its text holds the string's last character. That is looked up in a table made
once per set of stop strings; only for such ids the tail of the turn is decoded. A last character that a tokenizer may
split over several ids, or drop at the start of a decoded piece (anything but visible ASCII), makes every id such an id.
"""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.tokenizer import Tokenizer

__all__ = ["StopTable"]


class StopTable:
    """Says whether the last of some ids ends the turn.

    Args:
        vocab_size: ids that the model can sample; those beyond the tokenizer's vocabulary have no text.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._tables: dict[tuple[str, ...], bytes] = {}

    def ends(self, ids: Sequence[int], stop: tuple[str, ...]) -> bool:
        """``ids`` end with the end-of-turn id, or hold a stop string that their last id completed."""
        table = self._tables.get(stop) or self._make(stop)
        if not table[ids[-1]]:
            return False
        if ids[-1] == self._tokenizer.eos_id:
            return True
        tail = ids[-max(len(text.encode()) for text in stop) :]
        text = self._tokenizer.decode([i for i in tail if i < self._tokenizer.vocab_size])
        return any(wanted in text for wanted in stop)

    def _make(self, stop: tuple[str, ...]) -> bytes:
        last = {text[-1] for text in stop}
        if any(not (char.isascii() and char.isprintable()) or char == " " for char in last):
            marks = [True] * self._vocab_size
        else:
            known = min(self._vocab_size, self._tokenizer.vocab_size)
            pieces = (self._tokenizer.decode([i]) for i in range(known)) if last else ()
            marks = [not last.isdisjoint(piece) for piece in pieces]
        marks += [False] * (self._vocab_size - len(marks))
        if self._tokenizer.eos_id < len(marks):
            marks[self._tokenizer.eos_id] = True
        self._tables[stop] = bytes(marks)
        return self._tables[stop]
