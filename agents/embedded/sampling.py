"""Drawing ids from logits, and the log-probabilities of what was drawn.

**Convention** (that of SGLang, so that engines can be exchanged): a log-probability is that of ``softmax(logits / T)``
over the *whole* vocabulary, before top-k and top-p; for greedy requests with ``T = 1``. It is what a trainer scores.
With top-k or top-p it is not the log-probability of the distribution that was drawn from, which is renormalised on the
ids that are left; training therefore scores such samples itself, and takes them only from the weights that it trains
(``rollout.staleness=0``, no replay).

**Drawing.** Each row inverts the cumulative distribution at its own uniform number: first over blocks of ids, then
inside of one block, so that only block sums and one block are ever summed in float64. A row's draw depends on its
logits and its uniform alone. Top-k keeps ties with the last kept id; top-p keeps the smallest set of the likeliest ids
whose mass reaches ``p``, of what top-k left, renormalised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agents.base import Sampling

__all__ = ["restrict", "sample", "triangle_sum"]

BLOCK = 128
BELOW_ONE = 1 - 2**-53
FIRST_LIKELIEST = 256


def sample(
    logits: torch.Tensor, uniforms: torch.Tensor, samplings: Sequence[Sampling]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one id per row.

    Args:
        logits: float32 ``[num_rows, vocab]``; overwritten.
        uniforms: float64 ``[num_rows]`` in [0, 1).
        samplings: of each row.

    Returns:
        Ids int64 and log-probabilities float32, both ``[num_rows]``.
    """
    kinds = set(samplings)
    if len(kinds) == 1:
        return _sample_alike(logits, uniforms, samplings[0])
    ids = torch.empty(len(samplings), dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(len(samplings), dtype=torch.float32, device=logits.device)
    for kind in dict.fromkeys(samplings):
        rows = torch.tensor([k for k, s in enumerate(samplings) if s == kind], device=logits.device)
        ids[rows], logprobs[rows] = _sample_alike(logits[rows], uniforms[rows], kind)
    return ids, logprobs


def _sample_alike(
    logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)
    if sampling.temperature != 1:
        logits.div_(sampling.temperature)
    probabilities = logits.softmax(-1)
    ids = _invert(restrict(probabilities, sampling), uniforms)
    return ids, probabilities.gather(-1, ids[:, None])[:, 0].log()


def _invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Where the cumulative sum of ``weights`` ``[num_rows, vocab]``, as a share of the total, passes ``uniforms``."""
    vocab = weights.shape[-1]
    whole = vocab // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < vocab:
        sums = torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)
    upper = _running_sum(sums.double())
    target = (uniforms * upper[:, -1])[:, None]
    block = torch.searchsorted(upper, target, right=True).clamp_max_(upper.shape[-1] - 1)
    high = upper.gather(-1, block)
    size = sums.gather(-1, block)
    # The share of the block that lies before the target; rounding must not carry it out of the block.
    share = ((target - high + size) / size).clamp_(0, BELOW_ONE)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    chosen = weights.gather(-1, columns.clamp_max(vocab - 1)).double().masked_fill_(columns >= vocab, 0)
    inside = _running_sum(chosen)
    offset = torch.searchsorted(inside, share * inside[:, -1:], right=True)
    return (block * BLOCK + offset)[:, 0].clamp_max_(vocab - 1)


def _running_sum(values: torch.Tensor) -> torch.Tensor:
    """Cumulative sums of the last dimension."""
    if values.is_cuda and torch.are_deterministic_algorithms_enabled():
        return triangle_sum(values)
    return values.cumsum(-1)


def triangle_sum(values: torch.Tensor) -> torch.Tensor:
    """The same as a product: torch has no deterministic ``cumsum`` on CUDA and refuses the other one."""
    size = values.shape[-1]
    return values @ torch.ones(size, size, dtype=values.dtype, device=values.device).triu()


def restrict(probabilities: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """``probabilities`` with everything outside of top-k and top-p at 0; not renormalised."""
    kept = probabilities
    if sampling.top_k:
        last = kept.topk(min(sampling.top_k, kept.shape[-1]), dim=-1).values[:, -1:]
        kept = kept.masked_fill(kept < last, 0)
    return kept if sampling.top_p == 1 else _nucleus(kept, sampling.top_p)


def _nucleus(weights: torch.Tensor, share: float) -> torch.Tensor:
    """The smallest set of the likeliest ids whose mass reaches ``share`` of the total; others at 0."""
    wanted = share * weights.sum(-1, keepdim=True, dtype=torch.float64)
    size = FIRST_LIKELIEST
    # A few of the likeliest nearly always suffice, and sorting a whole vocabulary takes a hundred times longer.
    while True:
        likeliest, order = weights.topk(min(size, weights.shape[-1]), dim=-1)
        mass = _running_sum(likeliest.double())
        if size >= weights.shape[-1] or bool((mass[:, -1:] >= wanted).all()):
            break
        size *= 8
    # Judged by the mass before an id, so that the first id always stays.
    likeliest = likeliest.masked_fill(mass - likeliest >= wanted, 0)
    return torch.zeros_like(weights).scatter_(-1, order, likeliest)
