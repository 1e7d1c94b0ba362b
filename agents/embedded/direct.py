"""A forward pass of the Llama family (Llama, Qwen2, Qwen3, Mistral) made for decoding.

It reads the module's own parameters at every step, so there is no copy that could go stale, and leaves out what a
general module has to do: each layer is some fifteen operations, whatever the number of sequences. Ids of all sequences
are packed into one matrix for the linear maps; only attention looks at rows. Rows of a shelf attend in one batched
product, grouped queries against their one key head without repeating it.

Not here: wrapped linear layers (LoRA, quantised), hooks, sliding windows, rotary embeddings that depend on the length
of the context. :func:`supports` says no to all of them, and the generic way runs instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM

from agents.embedded.feed import Feed, later_ids_hidden, rest_hidden
from agents.embedded.kv import Shelf, Strip

__all__ = ["DirectForward", "supports"]

FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose table is the same for every length


def supports(model: PreTrainedModel) -> bool:
    """This model can run here."""
    if type(model) not in FAMILIES or model.model.rotary_emb.rope_type not in ROPE_TYPES:
        return False
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return False
    linear = [m for layer in model.model.layers for part in (layer.self_attn, layer.mlp) for m in part.children()]
    plain = (nn.Linear, nn.SiLU, type(model.model.norm))
    return all(type(m) in plain or type(m).__name__ == "SiLUActivation" for m in [*linear, model.lm_head])


class DirectForward:
    """Runs ``model`` on packed ids."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        attention = model.model.layers[0].self_attn
        self._head_dim: int = attention.head_dim
        self._num_kv = model.config.num_key_value_heads
        self._num_q = model.config.num_attention_heads
        self._scaling: float = attention.scaling
        self._normed_heads = hasattr(attention, "q_norm")
        self._cos = self._sin = torch.empty(0)

    def __call__(self, feed: Feed) -> torch.Tensor:
        device = self._model.device
        hidden = self._model.model.embed_tokens(torch.from_numpy(feed.token_ids).to(device))  # [num_ids, hidden]
        views = [_ShelfView(shelf, hidden.dtype, device) for shelf in feed.shelves]
        pieces = [_PieceView(p.strip, len(p.ids), hidden.dtype, device) for p in feed.pieces]
        rotation = self._rotation(feed.positions, hidden.dtype, device)
        # Scores are scaled here, once per step, rather than in every layer.
        rotations = (tuple(part * self._scaling for part in rotation), rotation)
        for index, layer in enumerate(self._model.model.layers):
            self._attend(layer, index, hidden, rotations, [*views, *pieces])
            self._feed_forward(layer.mlp, _norm(layer.post_attention_layernorm, hidden), hidden)
        if pieces:
            hidden = hidden[torch.from_numpy(feed.wanted).to(device)]
        head = self._model.lm_head
        return F.linear(_norm(self._model.model.norm, hidden), head.weight, head.bias).float()

    def _attend(
        self,
        layer: Any,
        index: int,
        hidden: torch.Tensor,
        rotations: tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]],
        views: list[_ShelfView | _PieceView],
    ) -> None:
        """Add the attention of one layer to ``hidden`` in place."""
        part = layer.self_attn
        x = _norm(layer.input_layernorm, hidden)
        q, k, v = self._project(part, x)
        q, k = _rotate(q, *rotations[0]), _rotate(k, *rotations[1])
        out = torch.empty_like(q)
        start = 0
        for view in views:
            end = start + view.num_ids
            view.attend(index, q[start:end], k[start:end], v[start:end], out[start:end])
            start = end
        _add_linear(hidden, out.flatten(1), part.o_proj)

    def _project(self, part: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, ``[num_ids, heads, head_dim]``."""
        q = part.q_proj(x).unflatten(-1, (self._num_q, self._head_dim))
        k = part.k_proj(x).unflatten(-1, (self._num_kv, self._head_dim))
        v = part.v_proj(x).unflatten(-1, (self._num_kv, self._head_dim))
        if self._normed_heads:
            q, k = _norm(part.q_norm, q), _norm(part.k_norm, k)
        return q, k, v

    def _feed_forward(self, part: Any, x: torch.Tensor, hidden: torch.Tensor) -> None:
        gate = F.silu(F.linear(x, part.gate_proj.weight, part.gate_proj.bias), inplace=True)
        gate.mul_(F.linear(x, part.up_proj.weight, part.up_proj.bias))
        _add_linear(hidden, gate, part.down_proj)

    def _rotation(
        self, positions: NDArray[np.int64], dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and signed sines ``[num_ids, 1, head_dim]`` of the positions, from a table that grows."""
        need = int(positions.max()) + 1
        if need > len(self._cos) or self._cos.dtype != dtype or self._cos.device != device:
            table = torch.arange(max(need, 2 * len(self._cos), 512), device=device)[None]
            cos, sin = self._model.model.rotary_emb(torch.empty(0, dtype=dtype, device=device), table)
            sin = sin.clone()
            sin[..., : sin.shape[-1] // 2].neg_()
            self._cos, self._sin = cos[0], sin[0]
        index = torch.from_numpy(positions).to(device)
        return self._cos[index][:, None], self._sin[index][:, None]


class _ShelfView:
    """A shelf during one step: where each row's new column goes, and what its query may see."""

    def __init__(self, shelf: Shelf[Any], dtype: torch.dtype, device: torch.device) -> None:
        self.num_ids = len(shelf.members)
        longest = int(shelf.lengths[: self.num_ids].max()) + 1
        self._mask = rest_hidden(shelf, dtype, device)
        self._layers = shelf.kv[:, :, : self.num_ids].unbind(0)
        heads, columns = shelf.kv.shape[3:5]
        self._seen = shelf.kv[:, :, : self.num_ids, :, :longest].flatten(2, 3).unbind(0)
        rows = torch.arange(self.num_ids * heads, device=device).view(self.num_ids, heads) * columns
        self._columns = (rows + torch.from_numpy(shelf.lengths[: self.num_ids]).to(device)[:, None]).flatten()

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        num, heads, dim = k.shape
        keys, values = self._layers[layer].flatten(1, 3).unbind(0)
        keys.index_copy_(0, self._columns, k.reshape(-1, dim))
        values.index_copy_(0, self._columns, v.reshape(-1, dim))
        keys, values = self._seen[layer].unbind(0)  # [num * heads, longest, head_dim]
        # Keys times queries, not the other way round: the long matrix in front is quicker by a third.
        scores = torch.bmm(keys, q.reshape(num * heads, -1, dim).transpose(1, 2)).transpose(1, 2)
        scores = scores.view(num, heads, -1, keys.shape[1])
        if self._mask is not None:
            scores = scores + self._mask
        weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype).view(num * heads, -1, keys.shape[1])
        torch.bmm(weights, values, out=out.view(num * heads, -1, dim))


class _PieceView:
    """Some new ids of one sequence during one step."""

    def __init__(self, strip: Strip, num_ids: int, dtype: torch.dtype, device: torch.device) -> None:
        self.num_ids = num_ids
        self._strip = strip
        self._mask = later_ids_hidden(strip.length, num_ids, dtype, device) if strip.length and num_ids > 1 else None

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor) -> None:
        start, end = self._strip.length, self._strip.length + self.num_ids
        kv = self._strip.kv[layer]
        kv[0, :, start:end] = k.transpose(0, 1)
        kv[1, :, start:end] = v.transpose(0, 1)
        seen = kv[:, None, :, :end]
        result = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            seen[0],
            seen[1],
            attn_mask=self._mask,
            is_causal=start == 0 and self.num_ids > 1,
            scale=1.0,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        out.copy_(result[0].transpose(0, 1))


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)


def _add_linear(hidden: torch.Tensor, x: torch.Tensor, linear: nn.Linear) -> None:
    """``hidden += linear(x)``."""
    hidden.addmm_(x, linear.weight.t())
    if linear.bias is not None:
        hidden.add_(linear.bias)


def _rotate(x: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of ``[num_ids, heads, head_dim]``: halves swapped, the sign is in the sine."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)
