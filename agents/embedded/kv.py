"""Where keys and values lie: strips for single sequences, shelves for those that decode.

A :class:`Strip` belongs to one sequence: while its prompt is read, and between two turns of its episode. A
:class:`Shelf` holds many sequences of similar length, so that one decode step is one batched attention over it. Rows of
a shelf stay contiguous: the last one moves into the place of one that leaves. A row that outgrows its shelf moves to
the next one, twice as wide; so at most half of what a step reads is padding, and moving costs less than two copies in a
sequence's life.

Everything is laid out ``[num_layers, 2, (rows,) num_heads, columns, head_dim]``: keys at index 0, values at 1, token
``p`` of a sequence in column ``p``. Columns behind a sequence's end hold old numbers, always finite ones: a mask hides
them, and a mask cannot hide NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

__all__ = ["KVShape", "Shelf", "Shelves", "Strip"]

MIN_COLUMNS = 128
MIN_ROWS = 16

Member = TypeVar("Member")


@dataclass(frozen=True, kw_only=True)
class KVShape:
    """What a model caches per token, and where."""

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, model: PreTrainedModel) -> KVShape:
        config = model.config.get_text_config()
        return cls(
            num_layers=config.num_hidden_layers,
            num_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            dtype=model.dtype,
            device=model.device,
        )

    def zeros(self, rows: int, columns: int) -> torch.Tensor:
        """``[num_layers, 2, rows, num_heads, columns, head_dim]``."""
        shape = (self.num_layers, 2, rows, self.num_heads, columns, self.head_dim)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


class Strip:
    """Keys and values of one sequence.

    Attributes:
        kv: ``[num_layers, 2, num_heads, columns, head_dim]``.
        length: columns that are filled.
    """

    def __init__(self, kv: torch.Tensor, length: int) -> None:
        self.kv = kv
        self.length = length

    @classmethod
    def start(cls, shape: KVShape, columns: int, known: torch.Tensor | None = None) -> Strip:
        """A strip with room for ``columns`` tokens, of which ``known`` are there already."""
        strip = cls(shape.zeros(1, columns)[:, :, 0], 0)
        if known is not None:
            strip.length = known.shape[-2]
            strip.kv[..., : strip.length, :] = known
        return strip

    @property
    def filled(self) -> torch.Tensor:
        return self.kv[..., : self.length, :]


class Shelf(Generic[Member]):
    """Sequences of at most ``columns`` tokens, in rows ``0 .. len(members)-1``.

    Attributes:
        members: whose row it is.
        lengths: tokens of each row, int64 ``[rows]``; entries beyond ``members`` mean nothing.
    """

    def __init__(self, shape: KVShape, columns: int) -> None:
        self._shape = shape
        self.columns = columns
        self.kv = shape.zeros(0, columns)
        self.lengths = np.zeros(0, dtype=np.int64)
        self.members: list[Member] = []

    def add(self, member: Member, known: torch.Tensor) -> None:
        """A new last row that holds ``known`` ``[num_layers, 2, num_heads, num_tokens, head_dim]``."""
        row, length = len(self.members), known.shape[-2]
        if row == len(self.lengths):
            self._grow(max(MIN_ROWS, 2 * row))
        self.kv[:, :, row, :, :length] = known
        self.lengths[row] = length
        self.members.append(member)

    def row(self, row: int) -> torch.Tensor:
        """A view of one sequence, ``[num_layers, 2, num_heads, length, head_dim]``."""
        return self.kv[:, :, row, :, : self.lengths[row]]

    def remove(self, row: int) -> Member | None:
        """Give the row up; returns the member that lies there now, ``None`` when it was the last row."""
        last = len(self.members) - 1
        mover = self.members.pop()
        if row == last:
            return None
        length = self.lengths[last]
        self.kv[:, :, row, :, :length] = self.kv[:, :, last, :, :length]
        self.lengths[row] = length
        self.members[row] = mover
        return mover

    def _grow(self, rows: int) -> None:
        kv = self._shape.zeros(rows, self.columns)
        kv[:, :, : len(self.lengths)] = self.kv
        self.kv = kv
        self.lengths = np.concatenate([self.lengths, np.zeros(rows - len(self.lengths), dtype=np.int64)])


class Shelves(Generic[Member]):
    """All shelves, narrow ones first; made when first needed and kept."""

    def __init__(self, shape: KVShape) -> None:
        self.shape = shape
        self._by_columns: dict[int, Shelf[Member]] = {}

    def for_length(self, length: int) -> Shelf[Member]:
        """The narrowest shelf with room for one more token than ``length``."""
        columns = MIN_COLUMNS
        while columns <= length:
            columns *= 2
        if columns not in self._by_columns:
            self._by_columns[columns] = Shelf(self.shape, columns)
            self._by_columns = dict(sorted(self._by_columns.items()))
        return self._by_columns[columns]

    def used(self) -> list[Shelf[Member]]:
        """Shelves that hold something."""
        return [shelf for shelf in self._by_columns.values() if shelf.members]

    def clear(self) -> None:
        self._by_columns.clear()
