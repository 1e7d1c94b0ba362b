"""The text of each token of a transcript, such that the texts behind each other are the transcript.

A token alone often has a text of its own, which is kept once for the whole page. Where the bytes of a character are
spread over several tokens, the last of them gets the character and the others get nothing. An id that the tokenizer
does not know is shown as a number.
"""

from __future__ import annotations

from collections.abc import Sequence

from retool_env.tokenizer import Tokenizer

__all__ = ["Vocabulary"]

_BROKEN = "\ufffd"
_LONGEST = 8  # tokens that one character, with what is joined to it, can be spread over


class Vocabulary:
    """Collects the ids that occur, with their texts.

    Attributes:
        texts: by id, of the ids seen so far.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.texts: dict[int, str] = {}

    def joined(self, ids: Sequence[int]) -> dict[int, str]:
        """Texts by position, where they differ from ``texts`` of the id."""
        for token in set(ids) - self.texts.keys():
            known = token < self._tokenizer.vocab_size
            self.texts[token] = self._tokenizer.decode([token]) if known else f"\u27e8{token}\u27e9"
        found: dict[int, str] = {}
        position = 0
        while position < len(ids):
            if _BROKEN not in self.texts[ids[position]]:
                position += 1
                continue
            length, text = self._whole(ids[position : position + _LONGEST])
            if length > 1:
                found |= {**dict.fromkeys(range(position, position + length - 1), ""), position + length - 1: text}
            position += length
        return found

    def _whole(self, ids: Sequence[int]) -> tuple[int, str]:
        """How many of ``ids``, from the first on, make whole characters, and which; one when none do."""
        for length in range(2, len(ids) + 1):
            if ids[length - 1] >= self._tokenizer.vocab_size:
                break
            text = self._tokenizer.decode(ids[:length])
            if _BROKEN not in text:
                return length, text
        return 1, ""
