"""Gymnasium spaces for token sequences and for text.

``gymnasium.spaces.Text`` knows a fixed set of characters, which real questions leave at once; :class:`FreeText` takes
any text up to a length. Gymnasium's ``Sequence(Discrete(n))`` checks ids one by one in Python and turns into one-hot
rows in TorchRL; :class:`TokenSequence` is an array check and converts to a ragged int64 spec (registered by
``algos.specs``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from retool_env.errors import UsageError

__all__ = ["FreeText", "TokenSequence"]

SAMPLE_LENGTH = 8


class TokenSequence(Space[NDArray[np.int64]]):
    """All int64 arrays of shape ``[n]``, ``n <= max_length``, with ids in ``[0, vocab_size)``.

    Args:
        vocab_size: number of ids.
        max_length: longest sequence.
        end_id: samples end in this id, so that a sampled action is a complete (and almost surely wrong) turn.

    >>> space = TokenSequence(257, 100, end_id=256)
    >>> np.array([52, 50, 256]) in space, np.array([52, 257]) in space, [52, 50] in space
    (True, False, False)
    """

    def __init__(self, vocab_size: int, max_length: int, *, end_id: int | None = None, seed: int | None = None) -> None:
        if vocab_size < 1 or max_length < 1:
            raise UsageError(f"TokenSequence({vocab_size}, {max_length}): both must be at least 1")
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.end_id = end_id
        super().__init__(shape=None, dtype=np.int64, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: None = None, probability: None = None) -> NDArray[np.int64]:
        """A short random sequence; masks and probabilities are not supported."""
        if mask is not None or probability is not None:
            raise UsageError("TokenSequence.sample takes no mask and no probability")
        length = int(self.np_random.integers(1, min(SAMPLE_LENGTH, self.max_length) + 1))
        ids = self.np_random.integers(0, self.vocab_size, size=length, dtype=np.int64)
        if self.end_id is not None:
            ids[-1] = self.end_id
        return ids

    def contains(self, x: Any) -> bool:
        if not isinstance(x, np.ndarray) or x.ndim != 1 or x.dtype.kind not in "iu" or len(x) > self.max_length:
            return False
        return len(x) == 0 or bool(x.min() >= 0 and x.max() < self.vocab_size)

    def to_jsonable(self, sample_n: Any) -> list[list[int]]:
        return [np.asarray(ids).tolist() for ids in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[Any]:
        return [np.array(ids, dtype=np.int64) for ids in sample_n]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenSequence) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"TokenSequence({self.vocab_size}, {self.max_length})"

    def _key(self) -> tuple[int, int, int | None]:
        return (self.vocab_size, self.max_length, self.end_id)


class FreeText(Space[str]):
    """All strings of at most ``max_length`` characters. Samples are short, printable ASCII and, as actions, wrong."""

    def __init__(self, max_length: int, *, seed: int | None = None) -> None:
        if max_length < 1:
            raise UsageError(f"FreeText({max_length}): must be at least 1")
        self.max_length = max_length
        super().__init__(shape=None, dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A short random text; masks and probabilities are not supported."""
        if mask is not None or probability is not None:
            raise UsageError("FreeText.sample takes no mask and no probability")
        length = int(self.np_random.integers(1, min(SAMPLE_LENGTH, self.max_length) + 1))
        return bytes(self.np_random.integers(32, 127, size=length, dtype=np.uint8)).decode("ascii")

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Any) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[Any]:
        return list(sample_n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((FreeText, self.max_length))

    def __repr__(self) -> str:
        return f"FreeText({self.max_length})"
