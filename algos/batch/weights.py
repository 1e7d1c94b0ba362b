r"""The loss denominator: one number per sample for the whole optimizer step.

Every aggregation is a weight per trained token, so losses of micro-batches are *summed* and neither their cut nor the
number of ranks changes the gradient. With B samples, :math:`S_i` trained tokens in sample i and N of them in all:

==================  =====================================  ==========================================================
token_mean          :math:`1/N`                            2503.14476; long samples count more
sequence_mean       :math:`1/(B S_i)`                      2402.03300; what gspo needs; long wrong answers are let off
sequence_sum        :math:`1/(B L)`                        2503.20783; L is a constant of the configuration
prompt_mean         :math:`1/(Q N_g)`                      2510.13786; token mean of each of the Q groups
==================  =====================================  ==========================================================

B, N and Q count what is handed in, as the sources and the code of trl and verl do: every scored sample of the optimizer
step, those whose advantage is zero included although nothing may read them (:attr:`Sample.read
<algos.batch.sample.Sample>`). So a token's weight does not depend on how many groups happen to agree, and neither does
the factor of a KL term. Samples that were filtered out on purpose before do not count, those that a rollout correction
rejects within the loss still do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import get_args

from algos.batch.sample import Sample
from algos.choices import Aggregation
from retool_env.errors import UsageError, did_you_mean

__all__ = ["AGGREGATIONS", "Aggregation", "weighted"]

AGGREGATIONS: tuple[str, ...] = get_args(Aggregation)


def weighted(
    samples: Sequence[Sample], aggregation: str = "token_mean", *, constant: float | None = None, num_ranks: int = 1
) -> list[Sample]:
    """The samples of an optimizer step, over all ranks and whether they are read or not, with their weights.

    Args:
        aggregation: one of :data:`AGGREGATIONS`.
        constant: L of ``sequence_sum``.
        num_ranks: that gradients are averaged over afterwards, as FSDP does; the weights make up for it.

    Raises:
        UsageError: an unknown aggregation, or ``sequence_sum`` without its constant.
    """
    if aggregation not in AGGREGATIONS:
        raise UsageError(f"no aggregation {aggregation!r}{did_you_mean(aggregation, AGGREGATIONS)}")
    if aggregation == "sequence_sum" and not constant:
        raise UsageError("aggregation=sequence_sum needs a constant length; set it to the most tokens of a response")
    num, num_tokens = len(samples), max(1, sum(sample.num_trained for sample in samples))
    per_group = Counter[int]()
    for sample in samples:
        per_group[sample.group] += sample.num_trained
    denominators: Mapping[str, Callable[[Sample], float]] = {
        "token_mean": lambda sample: num_tokens,
        "sequence_mean": lambda sample: num * max(1, sample.num_trained),
        "sequence_sum": lambda sample: num * (constant or 1.0),
        "prompt_mean": lambda sample: len(per_group) * max(1, per_group[sample.group]),
    }
    return [replace(sample, weight=num_ranks / denominators[aggregation](sample)) for sample in samples]
