"""Start-up checks: in which layout is this model scored, and can it be?

Two mistakes are silent: packed sequences that see each other (an attention mask, a cache, or a kernel that does not
read positions), and a head that is more than a linear map. Both would train on wrong log-probabilities, so a run tries
a few tokens before it starts, against the model's own logits of each sequence alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from algos.batch import Layout, Sample
from algos.per_token import per_token
from algos.policy.parts import causal_lm
from algos.policy.prefixes import NAME as SHARED
from algos.policy.prefixes import can_share, refusal
from algos.policy.sharding import compute_device
from algos.policy.ulysses import PREFIX
from algos.policy.varlen import NAME as VARLEN
from algos.scorer import Scorer
from retool_env.errors import UsageError

__all__ = ["check_layout", "check_scorer", "choose_layout"]

MOST_MASKED = 512
MASKED_KERNELS = ("sdpa", "eager", SHARED)
PACKED_KERNELS = (VARLEN, "flash_attention_2", "flash_attention_3")
LENGTHS = (11, 6, 9)
COMMON = 4  # ids that all sequences begin with


def choose_layout(model: nn.Module) -> Layout:
    """The fastest that was measured (``docs/performance.md``): without padding for kernels that take the boundaries of
    sequences, else as a prefix tree on a CPU, and in sorted rows where neither is possible."""
    inner = causal_lm(model)
    if inner.config._attn_implementation.removeprefix(PREFIX) in PACKED_KERNELS:
        return "packed"
    return "shared" if compute_device(model).type == "cpu" and can_share(inner) else "sorted"


def check_layout(model: nn.Module, *, layout: Layout, max_tokens: int) -> None:
    """Refuse a layout that this model would be slow in.

    Raises:
        UsageError: packing more than 512 tokens for attention that builds a mask of ``total x total`` for it, or
            shared prompts with attention that cannot.
    """
    attention = causal_lm(model).config._attn_implementation.removeprefix(PREFIX)
    if layout == "packed" and attention in MASKED_KERNELS and max_tokens > MOST_MASKED:
        raise UsageError(
            f"layout=packed with {attention!r} attention builds a mask of {max_tokens} x {max_tokens}; use "
            f"layout=sorted, model.attention=varlen, or at most {MOST_MASKED} tokens per micro-batch"
        )
    if layout == "shared" and not can_share(causal_lm(model)):
        raise refusal(causal_lm(model))


def check_scorer(model: nn.Module, *, layout: Layout, precise: bool = True) -> None:
    """Score random tokens in the layout and compare with the model's own logits of each sequence alone.

    Args:
        precise: it computes in the type of its weights.

    Raises:
        UsageError: they differ.
    """
    inner = causal_lm(model)
    samples = _samples(int(inner.config.vocab_size))
    scorer = Scorer(model, share_prompts=layout == "shared")
    scored = per_token(scorer, samples, max_tokens=sum(LENGTHS), layout=layout)
    worst = max(_difference(model, sample, row) for sample, row in zip(samples, scored, strict=True))
    exact = precise and inner.dtype in (torch.float32, torch.float64)
    if not worst <= (1e-3 if exact else 0.1):
        raise UsageError(
            f"layout={layout}: log-probabilities are off by {worst:.2g} from the model's own logits "
            f"({type(inner).__name__}, {inner.config._attn_implementation!r} attention): the head is no plain linear "
            "map, or sequences see each other; try layout=sorted"
        )


def _samples(vocab_size: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocab_size, (len(LENGTHS), max(LENGTHS)))
    ids[:, :COMMON] = ids[0, :COMMON]
    return [
        Sample(
            token_ids=row[:length],
            trained=np.arange(length) > 0,
            behaviour_logprobs=np.full(length, np.nan, dtype=np.float32),
            order=k,
        )
        for k, (row, length) in enumerate(zip(ids, LENGTHS, strict=True))
    ]


@torch.no_grad()
def _difference(model: nn.Module, sample: Sample, scored: np.typing.NDArray[np.float32]) -> float:
    ids = torch.from_numpy(sample.token_ids).to(compute_device(model))[None]
    logprobs = model(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
    own = logprobs.gather(-1, ids[0, 1:, None])[:, 0].cpu().numpy()
    return float(np.abs(own - scored[1:]).max())
