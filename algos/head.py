r"""The LM head, log-softmax and entropy in one step that never holds the logits of all tokens.

.. math::
    \log p_t = z_t - \mathrm{lse}(z), \qquad H = \mathrm{lse}(z) - \sum_v p_v z_v, \qquad z = h W^T / T

Logits exist in tiles of ``rows`` tokens by ``columns`` vocabulary entries; the backward pass computes each tile anew
(unless all of them are few):

.. math::
    \partial\log p_t / \partial z_v = [v = t] - p_v, \qquad \partial H / \partial z_v = -p_v (z_v - \mathrm{lse}(z) + H)

Matrix products and sums are in float32 at least, whatever the dtype of the inputs and of autocast, and so is the
accumulated gradient of the head. A chunked loop under ordinary autograd would bound nothing: it keeps every tile.

Top-k and top-p restrict the distribution to what the sampler drew from; the restriction itself has no gradient. The
scored token always stays inside: it was drawn, so a logit that rounding put on the other side must not exclude it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["HeadSpec", "score_tokens"]

OUTSIDE = -1e30  # finite, because 0 * -inf is no number


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What is scored, and in tiles of which size.

    Attributes:
        temperature: divides the logits.
        top_p: smallest set of tokens with this probability; 1 for all.
        top_k: this many most likely tokens; 0 for all.
        rows: tokens of one tile.
        columns: vocabulary entries of one tile.
        keep: logits that may be kept for the backward pass; with more of them, all tiles are computed again.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    rows: int = 256
    columns: int = 4096
    keep: int = 2**24

    @property
    def restricted(self) -> bool:
        return self.top_p < 1 or self.top_k > 0


def score_tokens(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, spec: HeadSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of ``targets`` and entropies of their distributions, both ``[num]`` and differentiable.

    Args:
        hidden: ``[num, hidden_size]``.
        weight: of the head, ``[vocab_size, hidden_size]``.
        targets: ``[num]``.
    """
    logprobs, entropy = _Head.apply(hidden, weight, targets, spec)
    return logprobs, entropy


@dataclass(frozen=True, kw_only=True)
class _Tile:
    """Logits of some tokens at some vocabulary entries; ``hits`` are the tokens whose target is among these."""

    rows: slice
    columns: slice
    logits: torch.Tensor  # [num_rows, num_columns], over the temperature
    hits: torch.Tensor
    hit_columns: torch.Tensor


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, spec: HeadSpec
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
        lse, mean, chosen = torch.empty((3, len(hidden)), dtype=dtype, device=hidden.device)  # mean: sum of p * z
        cut = torch.full_like(lse, OUTSIDE) if spec.restricted else None
        kept: list[_Tile] = []
        keep = len(hidden) * len(weight) <= spec.keep
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _slices(len(hidden), spec.rows):
                if cut is not None:
                    cut[rows] = _cut(hidden[rows].to(dtype), weight, spec)
                statistics = []
                for tile in _tiles(rows, hidden, weight, targets, cut, spec, dtype):
                    statistics.append(_statistics(tile))
                    kept += [tile] * keep
                lses, means, at_target = (torch.stack(values) for values in zip(*statistics, strict=True))
                lse[rows] = lses.logsumexp(0)
                mean[rows] = ((lses - lse[rows]).exp() * means).sum(0)
                chosen[rows] = at_target.sum(0)
        ctx.save_for_backward(hidden, weight, targets, lse, mean, cut)
        ctx.spec = spec
        ctx.kept = kept
        ctx.set_materialize_grads(False)
        return chosen - lse, lse - mean

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: torch.Tensor | None, grad_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
        hidden, weight, targets, lse, mean, cut = ctx.saved_tensors
        spec, dtype = ctx.spec, lse.dtype
        grad_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        grad_weight = None  # a frozen head (adapters) costs no product and no memory
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros(weight.shape, dtype=dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            again = (
                tile
                for rows in _slices(len(hidden), spec.rows)
                for tile in _tiles(rows, hidden, weight, targets, cut, spec, dtype)
            )
            for tile in ctx.kept or again:
                rows = tile.rows
                grads = _rows(grad_logprobs, rows), _rows(grad_entropy, rows)
                grad = _grad_logits(tile, lse[rows], mean[rows], *grads).div_(spec.temperature)
                grad_hidden[rows].addmm_(grad, weight[tile.columns].to(dtype))
                if grad_weight is not None:
                    grad_weight[tile.columns].addmm_(grad.T, hidden[rows].to(dtype))
        return grad_hidden.to(hidden.dtype), None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def _tiles(
    rows: slice,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    cut: torch.Tensor | None,
    spec: HeadSpec,
    dtype: torch.dtype,
) -> Iterator[_Tile]:
    """The tiles of some tokens, computed one by one."""
    inputs, wanted = hidden[rows].to(dtype), targets[rows]
    for columns in _slices(len(weight), spec.columns):
        logits = (inputs @ weight[columns].to(dtype).T).div_(spec.temperature)
        hits = ((wanted >= columns.start) & (wanted < columns.stop)).nonzero()[:, 0]
        hit_columns = wanted[hits] - columns.start
        if cut is not None:
            outside = logits < cut[rows, None]
            outside[hits, hit_columns] = False
            logits.masked_fill_(outside, OUTSIDE)
        yield _Tile(rows=rows, columns=columns, logits=logits, hits=hits, hit_columns=hit_columns)


def _statistics(tile: _Tile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one tile, ``[num_rows]`` each: log-sum-exp, mean logit under the softmax, the target's logit or 0."""
    highest = tile.logits.amax(-1)
    powers = (tile.logits - highest[:, None]).exp_()
    total = powers.sum(-1)
    chosen = torch.zeros_like(highest)
    chosen[tile.hits] = tile.logits[tile.hits, tile.hit_columns]
    return highest + total.log(), torch.linalg.vecdot(powers, tile.logits) / total, chosen


def _grad_logits(
    tile: _Tile,
    lse: torch.Tensor,
    mean: torch.Tensor,
    grad_logprobs: torch.Tensor | None,
    grad_entropy: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of a tile's logits (those over the temperature), ``[num_rows, num_columns]``."""
    grad = (lse[:, None] - tile.logits).neg_().exp_()
    factor = torch.zeros_like(lse)[:, None] if grad_logprobs is None else -grad_logprobs[:, None]
    if grad_entropy is not None:
        factor = factor - (tile.logits - mean[:, None]).mul_(grad_entropy[:, None])
    grad *= factor
    if grad_logprobs is not None:
        grad[tile.hits, tile.hit_columns] += grad_logprobs[tile.hits]
    return grad


def _cut(inputs: torch.Tensor, weight: torch.Tensor, spec: HeadSpec) -> torch.Tensor:
    """What a logit must reach to be inside of top-k and top-p, ``[num_rows]``; whole rows of logits, few at a time.

    Halfway between the last logit inside and the first outside: a tile computed elsewhere may differ in its last bits.
    """
    cuts = []
    for few in inputs.split(max(1, spec.rows * spec.columns // len(weight))):
        parts = [few @ weight[columns].to(few.dtype).T for columns in _slices(len(weight), spec.columns)]
        ordered = (torch.cat(parts, dim=-1) / spec.temperature).sort(dim=-1, descending=True).values
        probs = ordered[:, : spec.top_k or len(weight)].softmax(-1)
        inside = (probs.cumsum(-1) - probs) < spec.top_p  # mass before the token; the first is always inside
        ends = inside.sum(-1, keepdim=True)
        ordered = F.pad(ordered, (0, 1), value=OUTSIDE)
        last, first_out = ordered.gather(-1, ends - 1), ordered.gather(-1, ends)
        ties = 8 * torch.finfo(few.dtype).eps * last.abs()
        cuts.append(((last + first_out) / 2 - ties)[:, 0])
    return torch.cat(cuts)


def _rows(values: torch.Tensor | None, rows: slice) -> torch.Tensor | None:
    return None if values is None else values[rows]


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
