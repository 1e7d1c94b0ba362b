r"""Which tokens drive entropy down: those where the advantage and the log-probability are high, or low, together.

:math:`c_t = (A_t - \bar A)(\log o_t - \overline{\log o})` over the trained tokens of the step (2505.22617).
The source takes the current policy, and its code the tokens of a micro-batch; here it is the policy at the start and
the whole step, so that the choice does not depend on how the step is cut. Samples whose advantage is zero are left out:
they drive nothing, and whether their log-probabilities are known depends on the other terms of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from algos.batch import Sample
from algos.batch.sample import Floats

__all__ = ["select_covariant"]


def select_covariant(
    samples: Sequence[Sample], *, share: float = 2e-4, band: tuple[float, float] | None = None, seed: int = 0
) -> list[Sample]:
    """The samples of an optimizer step, over all ranks, with ``selected`` filled in.

    Args:
        share: of the trained tokens that is selected, at least one token.
        band: Clip-Cov: draw them from those whose covariance lies in it (1 and 5 in the source). ``None``, KL-Cov:
            take those with the highest.
        seed: of the draw.
    """
    masks = [sample.trained & np.isfinite(_logprobs(sample)) & np.any(sample.advantage) for sample in samples]
    advantages = np.concatenate([np.broadcast_to(s.advantage, m.shape)[m] for s, m in zip(samples, masks, strict=True)])
    logprobs = np.concatenate([_logprobs(s)[m] for s, m in zip(samples, masks, strict=True)]).astype(np.float64)
    covariance = (advantages - advantages.mean()) * (logprobs - logprobs.mean()) if len(logprobs) else logprobs
    num = max(1, int(share * len(covariance)))
    if band is None:
        chosen = np.argsort(-covariance, kind="stable")[:num]
    else:
        inside = np.flatnonzero((covariance > band[0]) & (covariance < band[1]))
        chosen = np.random.default_rng(seed).permutation(inside)[:num]
    picked = np.zeros(len(covariance), dtype=np.bool_)
    picked[chosen] = True
    out, start = [], 0
    for sample, mask in zip(samples, masks, strict=True):
        selected = np.zeros(len(sample), dtype=np.bool_)
        selected[mask] = picked[start : start + mask.sum()]
        start += int(mask.sum())
        out.append(replace(sample, selected=selected))
    return out


def _logprobs(sample: Sample) -> Floats:
    return sample.behaviour_logprobs if sample.proximal_logprobs is None else sample.proximal_logprobs
