"""What one step feeds to the model: one id per row of the shelves, and pieces of the strips, packed without padding.

Order of the packed ids: the rows of each shelf, then the pieces. :class:`Forward` is what computes it; there are two,
``direct`` for the families it knows and ``generic`` for every other causal language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from agents.embedded.kv import Shelf, Strip

__all__ = ["Feed", "Forward", "Piece", "later_ids_hidden", "rest_hidden"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The next ids of one sequence, to be written behind what its strip holds.

    Attributes:
        ids: ``[num_new]``, at least one.
        wanted: the logits behind its last id are asked for.
    """

    strip: Strip
    ids: NDArray[np.int64]
    wanted: bool


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One step.

    Attributes:
        shelves: every row of them takes part with one id, which goes into the column behind its length.
        shelf_ids: these ids, ``[num_shelf_rows]``.
        pieces: of the sequences that are still being read.
    """

    shelves: Sequence[Shelf[Any]]
    shelf_ids: NDArray[np.int64]
    pieces: Sequence[Piece]

    @property
    def token_ids(self) -> NDArray[np.int64]:
        return np.concatenate([self.shelf_ids, *(piece.ids for piece in self.pieces)])

    @property
    def positions(self) -> NDArray[np.int64]:
        rows = [shelf.lengths[: len(shelf.members)] for shelf in self.shelves]
        pieces = [np.arange(p.strip.length, p.strip.length + len(p.ids)) for p in self.pieces]
        return np.concatenate([np.zeros(0, dtype=np.int64), *rows, *pieces])

    @property
    def wanted(self) -> NDArray[np.int64]:
        """Packed indices whose logits are asked for: all shelf rows, then the pieces that want them."""
        ends = len(self.shelf_ids) + np.cumsum([len(p.ids) for p in self.pieces], dtype=np.int64) - 1
        last = [end for end, piece in zip(ends, self.pieces, strict=True) if piece.wanted]
        return np.concatenate([np.arange(len(self.shelf_ids)), np.array(last, dtype=np.int64)])


class Forward(Protocol):
    """Runs the model."""

    def __call__(self, feed: Feed) -> torch.Tensor:
        """Logits ``[num_wanted, vocab]`` in float32. Keys and values are written; lengths are the caller's to raise."""
        ...


def rest_hidden(shelf: Shelf[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    """Additive mask ``[num_rows, 1, 1, longest]`` over the columns behind each row's new one; ``None`` for equal rows.

    The lowest finite number, not minus infinity, as some kernels turn the latter into NaN.
    """
    lengths = shelf.lengths[: len(shelf.members)]
    longest = int(lengths.max()) + 1
    if int(lengths.min()) + 1 == longest:
        return None
    behind = torch.from_numpy(np.arange(longest) > lengths[:, None]).to(device)
    return torch.zeros(behind.shape, dtype=dtype, device=device).masked_fill_(behind, torch.finfo(dtype).min)[
        :, None, None
    ]


def later_ids_hidden(known: int, new: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Additive mask ``[1, 1, new, known + new]``: each new id sees what is known, itself and the new ids before it."""
    later = torch.ones(new, known + new, dtype=torch.bool, device=device).triu(known + 1)
    return torch.zeros(later.shape, dtype=dtype, device=device).masked_fill_(later, torch.finfo(dtype).min)[None, None]
