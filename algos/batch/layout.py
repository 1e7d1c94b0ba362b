"""How an optimizer step is cut into micro-batches, on one rank or on several.

A micro-batch has a token budget rather than a number of rows, and never a part of a sequence. Three layouts:

* ``sorted``: rows of similar length, padded on the right. Nothing but causal attention, so it works for every model.
* ``packed``: one row, no padding, positions restart in every sequence. For attention kernels that take sequence
  boundaries (``varlen``, flash attention); others build a mask of ``total x total`` for it, see
  :func:`algos.isolation.check_layout`.
* ``shared``: rows that begin alike, so that a scorer with ``share_prompts`` runs what they have in common once
  (:mod:`algos.policy.prefixes`). The budget counts tokens that run: no padding, and the common part once.

None changes the gradient of the step, only its time and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from tensordict import TensorDict

from algos.batch.sample import Sample, dummy, packed, padded
from algos.choices import Layout

__all__ = ["LAYOUTS", "Layout", "balanced", "collate", "micro_batches", "plan", "rank_batches", "rank_plan"]

LAYOUTS: tuple[str, ...] = get_args(Layout)
MOST_REPEATED = 4
"""Tokens of the rows of a shared micro-batch, over its budget: attention sees the common part once per row."""


def micro_batches(samples: Sequence[Sample], *, max_tokens: int, layout: Layout = "sorted") -> list[TensorDict]:
    """The micro-batches of one rank: at most ``max_tokens`` tokens each, padding included, at least one sequence.

    Returns:
        Tensordicts of batch size ``[num_rows, length]`` with ``token_ids``, ``trained``, ``behaviour_logprobs``,
        ``advantages``, ``weights``, ``sequence_ids`` (which sequence of the batch a token belongs to; -1 for padding)
        and the optional arrays of the samples; ``position_ids`` when packed.
    """
    return [collate([samples[k] for k in part], layout) for part in plan(samples, max_tokens=max_tokens, layout=layout)]


def rank_batches(
    samples: Sequence[Sample], *, rank: int, num_ranks: int, max_tokens: int, layout: Layout = "sorted"
) -> list[TensorDict]:
    """The micro-batches of one rank, equally many on every rank: those that have fewer get dummies of weight 0.

    Every rank calls this with all samples of the step, in the same order, and comes to the same plan.
    """
    parts = rank_plan(samples, rank=rank, num_ranks=num_ranks, max_tokens=max_tokens, layout=layout)
    return [collate([samples[k] for k in part] or [dummy(samples[0])], layout) for part in parts]


def rank_plan(
    samples: Sequence[Sample], *, rank: int, num_ranks: int, max_tokens: int, layout: Layout = "sorted"
) -> list[list[int]]:
    """Indices of the samples of each micro-batch of one rank; empty ones for dummies."""
    shares = balanced(samples, num_ranks)
    plans = [plan([samples[k] for k in share], max_tokens=max_tokens, layout=layout) for share in shares]
    mine = [[shares[rank][k] for k in part] for part in plans[rank]]
    return mine + [[] for _ in range(max(map(len, plans)) - len(mine))]


def balanced(samples: Sequence[Sample], num_ranks: int) -> list[list[int]]:
    """Indices of the samples of each rank: the longest first, each to the rank with the fewest tokens so far."""
    loads, shares = np.zeros(num_ranks, dtype=np.int64), [list[int]() for _ in range(num_ranks)]
    for k in sorted(range(len(samples)), key=lambda k: (-len(samples[k]), samples[k].order)):
        rank = int(loads.argmin())
        shares[rank].append(k)
        loads[rank] += len(samples[k])
    return shares


def collate(samples: Sequence[Sample], layout: Layout) -> TensorDict:
    """One micro-batch."""
    return packed(samples) if layout == "packed" else padded(samples)


def plan(samples: Sequence[Sample], *, max_tokens: int, layout: Layout = "sorted") -> list[list[int]]:
    """Indices of the samples of each micro-batch."""
    if layout == "shared":
        return _shared_plan(samples, max_tokens)
    ordered = sorted(range(len(samples)), key=lambda k: (len(samples[k]), samples[k].order))
    if layout == "packed":
        return _packed_plan(samples, ordered[::-1], max_tokens)
    return _padded_plan(samples, ordered, max_tokens)


def _padded_plan(samples: Sequence[Sample], ordered: Sequence[int], max_tokens: int) -> list[list[int]]:
    parts: list[list[int]] = []
    for k in ordered:
        if parts and len(samples[k]) * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(k)
        else:
            parts.append([k])
    return parts


def _shared_plan(samples: Sequence[Sample], max_tokens: int) -> list[list[int]]:
    """Samples that begin alike are neighbours, and what one begins with like the one before it is not counted."""
    parts: list[list[int]] = []
    nodes = tokens = 0
    for k in sorted(range(len(samples)), key=lambda k: (_sort_key(samples[k].token_ids), samples[k].order)):
        length = len(samples[k])
        new = length - _common_prefix(samples[parts[-1][-1]].token_ids, samples[k].token_ids) if parts else length
        if parts and nodes + new <= max_tokens and tokens + length <= MOST_REPEATED * max_tokens:
            parts[-1].append(k)
        else:
            parts.append([k])
            nodes, tokens, new = 0, 0, length
        nodes, tokens = nodes + new, tokens + length
    return parts


def _packed_plan(samples: Sequence[Sample], longest_first: Sequence[int], max_tokens: int) -> list[list[int]]:
    """First fit, longest first."""
    parts: list[list[int]] = []
    room: list[int] = []
    for k in longest_first:
        length = len(samples[k])
        target = next((i for i, left in enumerate(room) if length <= left), None)
        if target is None:
            parts.append([k])
            room.append(max_tokens - length)
        else:
            parts[target].append(k)
            room[target] -= length
    return parts


def _sort_key(token_ids: NDArray[np.int64]) -> bytes:
    """Bytes that are ordered as the ids are."""
    return token_ids.astype(">i8").tobytes()


def _common_prefix(one: NDArray[np.int64], two: NDArray[np.int64]) -> int:
    """How many ids both begin with."""
    shortest = min(len(one), len(two))
    differ = one[:shortest] != two[:shortest]
    return int(differ.argmax()) if differ.any() else shortest
