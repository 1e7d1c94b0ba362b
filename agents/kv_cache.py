"""Keys and values of a running batch, and of episodes between two turns.

:class:`KVBuffer` looks to a transformers model like a cache: attention layers call ``update`` and get everything so far
back. Columns are allocated ahead, so a decode step writes one column instead of copying the whole cache. A column may
be padding for some rows; an additive float mask hides it. :class:`SessionKV` is one row without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

__all__ = ["KVBuffer", "SessionKV", "gather_rows", "split_rows"]

GROWTH = 64


@dataclass(frozen=True, kw_only=True)
class SessionKV:
    """The cache of one episode: ``kv`` is ``[num_layers, 2, num_heads, num_tokens, head_dim]`` for ``ids``."""

    ids: NDArray[np.int64]
    kv: torch.Tensor

    def is_prefix_of(self, context: NDArray[np.int64]) -> bool:
        """The cache can serve this context, with at least one id left to feed."""
        return len(self.ids) < len(context) and bool(np.array_equal(self.ids, context[: len(self.ids)]))


class KVBuffer:
    """Cache of a batch: ``kv`` is ``[num_layers, 2, num_rows, num_heads, capacity, head_dim]``."""

    def __init__(self, kv: torch.Tensor, valid: torch.Tensor) -> None:
        self.kv = kv
        self.valid = valid  # [num_rows, capacity], False on padding and on columns not yet written
        self.length = 0
        self._start = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns in use; part of the interface that models call."""
        return self.length

    def extend(self, num_new: int, valid: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Make room for columns; returns the additive mask ``[rows, 1, new, length]`` and positions ``[rows, new]``.

        Args:
            valid: ``[rows, new]``, False on padding; ``None`` for all real.
        """
        self._start, self.length = self.length, self.length + num_new
        if self.length > self.kv.shape[-2]:
            self._grow(self.length - self.kv.shape[-2] + GROWTH)
        rows = self.valid.shape[0]
        self.valid[:, self._start : self.length] = True if valid is None else valid
        seen = self.valid[:, : self.length]
        position_ids = (seen.long().cumsum(-1)[:, self._start :] - 1).clamp_min(0)
        allowed = seen[:, None, None, :].expand(rows, 1, num_new, self.length)
        if num_new > 1:
            causal = torch.ones(num_new, num_new, dtype=torch.bool, device=seen.device).tril()
            past = torch.ones(num_new, self._start, dtype=torch.bool, device=seen.device)
            allowed = allowed & torch.cat([past, causal], -1)
        # The lowest finite number, not -inf: a padding row that may see nothing must not become NaN.
        low = torch.finfo(self.kv.dtype).min
        mask = torch.zeros(allowed.shape, dtype=self.kv.dtype, device=seen.device).masked_fill_(~allowed, low)
        return mask, position_ids

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's new columns and return all of them; called by attention layers."""
        layer = self.kv[layer_idx]
        layer[0, :, :, self._start : self.length] = key_states
        layer[1, :, :, self._start : self.length] = value_states
        return layer[0, :, :, : self.length], layer[1, :, :, : self.length]

    def select(self, index: torch.Tensor) -> None:
        """Keep only these rows."""
        self.kv = self.kv.index_select(2, index)
        self.valid = self.valid.index_select(0, index)

    def _grow(self, columns: int) -> None:
        shape = (*self.kv.shape[:-2], columns, self.kv.shape[-1])
        self.kv = torch.cat([self.kv, self.kv.new_zeros(shape)], dim=-2)
        self.valid = torch.cat([self.valid, self.valid.new_zeros(self.valid.shape[0], columns)], dim=-1)


def gather_rows(
    sessions: Sequence[SessionKV | None], model: PreTrainedModel, *, room: int, device: torch.device
) -> KVBuffer:
    """A buffer that holds the sessions' caches, right-aligned, with ``room`` free columns behind."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = max((len(session.ids) for session in sessions if session), default=0)
    shape = (config.num_hidden_layers, 2, len(sessions), heads, past + room, head_dim)
    kv = torch.zeros(shape, dtype=model.dtype, device=device)
    valid = torch.zeros(len(sessions), past + room, dtype=torch.bool, device=device)
    for k, session in enumerate(sessions):
        if session is not None:
            kv[:, :, k, :, past - len(session.ids) : past] = session.kv
            valid[k, past - len(session.ids) : past] = True
    buffer = KVBuffer(kv, valid)
    buffer.length = past
    return buffer


def split_rows(buffer: KVBuffer, row: int, ids: NDArray[np.int64]) -> SessionKV:
    """One row's cache without padding; ``ids`` are the tokens it holds."""
    columns = buffer.valid[row, : buffer.length].nonzero()[:, 0]
    assert len(columns) == len(ids), f"cache holds {len(columns)} tokens, expected {len(ids)}"
    return SessionKV(ids=ids, kv=buffer.kv[:, :, row].index_select(-2, columns))
