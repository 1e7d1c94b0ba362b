"""The forward pass of any causal language model, through its own module and its cache interface.

One call of the module for each shelf, one for each piece. Attention layers call ``update`` on what stands for the cache
and get everything so far back; what a row must not see is hidden by an additive mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from agents.embedded.feed import Feed, Piece, later_ids_hidden, rest_hidden
from agents.embedded.kv import Shelf

__all__ = ["GenericForward"]


class GenericForward:
    """Runs ``model`` on shelves and pieces, one after the other."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    def __call__(self, feed: Feed) -> torch.Tensor:
        logits, start = [], 0
        with _without_dropout(self._model):
            for shelf in feed.shelves:
                end = start + len(shelf.members)
                logits.append(self._run_shelf(shelf, feed.shelf_ids[start:end]))
                start = end
            for piece in feed.pieces:
                row = self._run_piece(piece)
                logits += [row] if piece.wanted else []
        return torch.cat(logits) if logits else torch.empty(0, device=self._model.device)

    def _run_shelf(self, shelf: Shelf[Any], ids: NDArray[np.int64]) -> torch.Tensor:
        lengths = torch.from_numpy(shelf.lengths[: len(ids)]).to(self._model.device)
        mask = rest_hidden(shelf, self._model.dtype, self._model.device)
        longest = int(shelf.lengths[: len(ids)].max()) + 1
        if mask is None:
            mask = torch.zeros(len(ids), 1, 1, longest, dtype=self._model.dtype, device=self._model.device)
        return self._run(ids[:, None], lengths[:, None], mask, _Cache(shelf.kv[:, :, : len(ids)], lengths, longest))

    def _run_piece(self, piece: Piece) -> torch.Tensor:
        start, new = piece.strip.length, len(piece.ids)
        positions = torch.arange(start, start + new, device=self._model.device)
        mask = later_ids_hidden(start, new, self._model.dtype, self._model.device)
        cache = _Cache(piece.strip.kv[:, :, None], slice(start, start + new), start + new)
        return self._run(piece.ids[None], positions[None], mask, cache)

    def _run(
        self,
        ids: NDArray[np.int64],
        positions: torch.Tensor,
        mask: torch.Tensor,
        cache: _Cache,
    ) -> torch.Tensor:
        output = self._model(
            input_ids=torch.from_numpy(ids).to(self._model.device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits
        return logits[:, -1].float()


class _Cache:
    """Stands for a transformers cache: ``kv`` is ``[num_layers, 2, rows, heads, columns, head_dim]``.

    Args:
        where: the columns that are written: one per row ``[rows]``, or the same slice for every row.
        seen: columns that are handed back.
    """

    is_compileable = False

    def __init__(self, kv: torch.Tensor, where: torch.Tensor | slice, seen: int) -> None:
        self._kv, self._where, self._seen = kv, where, seen

    def get_seq_length(self, layer_idx: int = 0) -> int:
        new = self._where.stop - self._where.start if isinstance(self._where, slice) else 1
        return self._seen - new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new columns and return all; called by attention layers."""
        layer = self._kv[layer_idx]
        if isinstance(self._where, slice):
            layer[0, :, :, self._where], layer[1, :, :, self._where] = key_states, value_states
        else:
            rows = torch.arange(len(self._where), device=layer.device)
            layer[0][rows, :, self._where] = key_states[:, :, 0]
            layer[1][rows, :, self._where] = value_states[:, :, 0]
        return layer[0, :, :, : self._seen], layer[1, :, :, : self._seen]


@contextmanager
def _without_dropout(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()
