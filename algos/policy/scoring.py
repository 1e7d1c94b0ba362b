"""Log-probabilities and values of a whole step before an update, with the work shared by all ranks.

Left out: what is scored and with what settings; that is the scorer's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from algos.batch.layout import Layout, balanced, plan
from algos.batch.sample import Sample, dummy
from algos.policy.world import World
from algos.scorer import per_token

__all__ = ["per_token_shared"]


def per_token_shared(
    module: nn.Module, samples: Sequence[Sample], world: World, *, max_tokens: int, layout: Layout = "sorted"
) -> list[NDArray[np.float32]]:
    """What :func:`algos.scorer.per_token` gives, each data rank having scored its share.

    Every rank must call this with all samples of the step in the same order. Gathering weights is collective, so ranks
    with fewer micro-batches than others run some that nobody reads.
    """
    shares = balanced(samples, world.num_data_ranks)
    counts = [len(plan([samples[k] for k in share], max_tokens=max_tokens, layout=layout)) for share in shares]
    mine = shares[world.data_rank]
    scored = per_token(module, [samples[k] for k in mine], max_tokens=max_tokens, layout=layout)
    for _ in range(max(counts) - counts[world.data_rank]):
        per_token(module, [dummy(samples[0])], max_tokens=max_tokens, layout=layout)
    by_sample = {k: row for part in world.gather(dict(zip(mine, scored, strict=True))) for k, row in part.items()}
    return [by_sample[k] for k in range(len(samples))]
