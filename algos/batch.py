r"""From trajectories to micro-batches.

A :class:`Sample` is one sequence with what the loss needs per token. Micro-batches hold rows of similar length, so
that little is padding, and have a token budget rather than a number of rows. How an optimizer step is cut into
micro-batches must not change its gradient, so everything that depends on the whole step (the loss denominator) is
folded into per-token ``weights`` before the cut: token mean gives every trained token of the step weight
:math:`1/N` (DAPO, 2503.14476).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

__all__ = ["Sample", "micro_batches", "token_mean_weight"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sequence to train on. Arrays have shape ``[num_tokens]``.

    Attributes:
        token_ids: the whole transcript.
        trained: True where the loss counts; never at position 0.
        behaviour_logprobs: of the policy that sampled; NaN where there is none.
        advantage: of the whole sequence.
        order: rows of equal length are ordered by it (the ticket), so that batches are reproducible.
    """

    token_ids: NDArray[np.int64]
    trained: NDArray[np.bool_]
    behaviour_logprobs: NDArray[np.float32]
    advantage: float = 0.0
    order: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)


def token_mean_weight(samples: Sequence[Sample]) -> float:
    """``1/N``, with N the trained tokens of the whole optimizer step."""
    return 1.0 / max(1, sum(int(sample.trained.sum()) for sample in samples))


def micro_batches(samples: Sequence[Sample], *, max_tokens: int, weight: float) -> list[TensorDict]:
    """Rows of similar length, at most ``max_tokens`` tokens (padding included) per batch, at least one row.

    Returns:
        Tensordicts of batch size ``[num_rows, length]`` with ``token_ids``, ``trained``, ``behaviour_logprobs``,
        ``advantages`` and ``weights``.
    """
    ordered = sorted(samples, key=lambda sample: (len(sample), sample.order))
    parts: list[list[Sample]] = []
    for sample in ordered:
        if parts and len(sample) * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(sample)
        else:
            parts.append([sample])
    return [_collate(part, weight) for part in parts]


def _collate(rows: Sequence[Sample], weight: float) -> TensorDict:
    shape = (len(rows), max(len(row) for row in rows))
    token_ids = np.zeros(shape, dtype=np.int64)
    trained = np.zeros(shape, dtype=np.bool_)
    logprobs = np.full(shape, np.nan, dtype=np.float32)
    for k, row in enumerate(rows):
        assert not row.trained[0], "no logits predict the first token"
        token_ids[k, : len(row)] = row.token_ids
        trained[k, : len(row)] = row.trained
        logprobs[k, : len(row)] = row.behaviour_logprobs
    advantages = torch.tensor([row.advantage for row in rows], dtype=torch.float32)[:, None].expand(shape)
    return TensorDict(
        {
            "token_ids": torch.from_numpy(token_ids),
            "trained": torch.from_numpy(trained),
            "behaviour_logprobs": torch.from_numpy(logprobs),
            "advantages": advantages,
            "weights": torch.from_numpy(trained).float() * weight,
        },
        batch_size=shape,
    )
