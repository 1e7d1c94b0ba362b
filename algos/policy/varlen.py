"""Attention that looks at every sequence of a packed row alone, without a mask: the implementation ``varlen``.

Sequences are told apart by positions that restart. On a GPU in half precision torch's own flash kernel for sequences of
different lengths does it, so nothing has to be installed; elsewhere each sequence is one causal call of ``sdpa``. Both
cost what the sequences cost. A mask of all pairs, which transformers builds for ``sdpa`` and ``eager``, costs the
square of the whole row.

``model.attention=varlen`` selects it, for rollouts' engine too: what comes with a mask, or is one token behind a cache,
is handed on to ``sdpa``. Not handled: sliding windows, and padding on the left (transformers makes no mask for this
implementation, and a two-dimensional one that a caller passes is dropped there).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from retool_env.errors import UsageError

__all__ = ["NAME", "register_varlen"]

NAME = "varlen"
HALF = (torch.float16, torch.bfloat16)


def register_varlen() -> None:
    """Let transformers find it under its name; may be called again."""
    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, _Varlen())


@dataclass(frozen=True, kw_only=True)
class _Sequences:
    """Of a batch of packed rows, laid out one row behind the other.

    Attributes:
        lengths: of the sequences, in order.
        offsets: int32 ``[num_sequences + 1]``, where they begin, and the end.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor


class _Varlen:
    """An attention function, as transformers calls it."""

    def __init__(self) -> None:
        self._last: tuple[weakref.ref[torch.Tensor], _Sequences | None] | None = None

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        position_ids: torch.Tensor | None = None,
        sliding_window: int | None = None,
        **settings: Any,
    ) -> tuple[torch.Tensor, None]:
        """States are ``[num_rows, num_heads, length, head_dim]``, the result is ``[num_rows, length, num_heads,
        head_dim]``."""
        if sliding_window is not None:
            raise UsageError(
                f"model.attention={NAME} knows no sliding windows, and this model has them; set model.attention=null"
            )
        cached, num_new = key.shape[2] != query.shape[2], query.shape[2]
        if cached and attention_mask is None and num_new > 1:
            raise UsageError(f"model.attention={NAME} reads no KV cache; set model.attention=sdpa")
        whole = attention_mask is not None or cached or position_ids is None
        sequences = None if whole else self._sequences(position_ids, num_rows=len(query))
        if sequences is None:
            out, _ = sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
            )
            return out, None
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [num_tokens, num_heads, head_dim]
        attend = _flash if query.is_cuda and query.dtype in HALF else _one_by_one
        out = attend(q, k, v, sequences, dropout=dropout, scaling=scaling)
        return out.unflatten(0, (len(query), num_new)), None

    def _sequences(self, position_ids: torch.Tensor | None, *, num_rows: int) -> _Sequences | None:
        """``None`` where each row is one sequence. All layers ask with the same tensor, so the last answer is kept."""
        assert position_ids is not None
        last = self._last  # of this thread's call or another's
        if last is not None and last[0]() is position_ids:
            return last[1]
        starts = (position_ids == 0).flatten().nonzero()[:, 0]
        found = None
        if len(starts) > num_rows:
            offsets = F.pad(starts, (0, 1), value=position_ids.numel())
            found = _Sequences(lengths=tuple(offsets.diff().tolist()), offsets=offsets.to(torch.int32))
        self._last = weakref.ref(position_ids), found
        return found


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequences: _Sequences,
    *,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    rows = []
    for q, k, v in zip(*(_split(x, sequences) for x in (query, key, value)), strict=True):
        rows.append(
            F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True)
        )
    return torch.cat(rows, dim=2)[0].transpose(0, 1)


def _split(states: torch.Tensor, sequences: _Sequences) -> tuple[torch.Tensor, ...]:
    """From ``[num_tokens, num_heads, head_dim]`` to one ``[1, num_heads, length, head_dim]`` for each sequence."""
    return torch.split(states.transpose(0, 1)[None], list(sequences.lengths), dim=2)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sequences: _Sequences,
    *,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if dropout:
        raise UsageError(f"model.attention={NAME} has no attention dropout on a GPU; set attention_dropout to 0")
    longest = max(sequences.lengths)
    out = varlen_attn(
        query,
        key,
        value,
        sequences.offsets,
        sequences.offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)
    return out
