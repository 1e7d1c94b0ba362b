"""One sequence to train on, and rows of them as tensors.

Contract: everything that a loss reads per token travels here, so that one mask, ``trained``, feeds every term. Nothing
is ever inferred from token ids: padding is where no sequence is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

__all__ = ["Sample", "dummy", "packed", "padded"]

Floats = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sequence to train on. Arrays have shape ``[num_tokens]`` and count where ``trained`` is True.

    Attributes:
        token_ids: the whole transcript.
        trained: True where the loss counts; never at position 0.
        behaviour_logprobs: of the policy that sampled; NaN where there is none.
        advantage: of the whole sequence, or of every token.
        order: rows of equal length are ordered by it (the ticket), so that batches are reproducible.
        group: which samples share a problem.
        weight: of every trained token in the loss of the optimizer step (:func:`algos.batch.weighted`).
        read: False where no term of the loss reads the sample: it counts in the weights of the others, and no model
            runs on it.
        proximal_logprobs: of the trainer's weights at the start of the step, where they are told apart from the
            behaviour's.
        reference_logprobs: of the reference policy.
        values: of the critic at the start of the step.
        returns: what the critic should have said.
        selected: tokens that clip-cov and kl-cov single out (:func:`algos.losses.select_covariant`).
    """

    token_ids: NDArray[np.int64]
    trained: NDArray[np.bool_]
    behaviour_logprobs: Floats
    advantage: float | Floats = 0.0
    order: int = 0
    group: int = 0
    weight: float = 1.0
    read: bool = True
    proximal_logprobs: Floats | None = None
    reference_logprobs: Floats | None = None
    values: Floats | None = None
    returns: Floats | None = None
    selected: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_trained(self) -> int:
        return int(self.trained.sum())


OPTIONAL = tuple(field.name for field in fields(Sample) if field.default is None)


def padded(rows: Sequence[Sample]) -> TensorDict:
    """Right-padded rows of batch size ``[num_rows, length]``; no attention mask is needed, because causal attention
    does not look at what comes behind."""
    return _collate(rows, (len(rows), max(map(len, rows))), [(k, 0) for k in range(len(rows))])


def packed(rows: Sequence[Sample]) -> TensorDict:
    """All rows behind each other, of batch size ``[1, total]``, with ``position_ids`` that restart in every one."""
    ends = np.cumsum([len(row) for row in rows]).tolist()
    starts = [(0, start) for start in (0, *ends[:-1])]
    batch = _collate(rows, (1, ends[-1]), starts)
    batch["position_ids"] = torch.from_numpy(np.concatenate([np.arange(len(row)) for row in rows]))[None]
    return batch


def dummy(like: Sample) -> Sample:
    """Two tokens that go through everything and weigh nothing, with the optional arrays that ``like`` has."""
    nothing: dict[str, Any] = {name: np.zeros(2, dtype=getattr(like, name).dtype) for name in _present([like])}
    return replace(
        like,
        token_ids=np.zeros(2, dtype=np.int64),
        trained=np.array([False, True]),
        behaviour_logprobs=np.full(2, np.nan, dtype=np.float32),
        advantage=0.0,
        weight=0.0,
        **nothing,
    )


def _collate(rows: Sequence[Sample], shape: tuple[int, int], starts: Sequence[tuple[int, int]]) -> TensorDict:
    """Tensors of ``shape`` that hold row k from ``starts[k]`` on."""
    arrays = {
        "token_ids": np.zeros(shape, dtype=np.int64),
        "trained": np.zeros(shape, dtype=np.bool_),
        "behaviour_logprobs": np.full(shape, np.nan, dtype=np.float32),
        "advantages": np.zeros(shape, dtype=np.float32),
        "weights": np.zeros(shape, dtype=np.float32),
        "sequence_ids": np.full(shape, -1, dtype=np.int64),
    }
    optional = _present(rows)
    for name in optional:
        arrays[name] = np.zeros(shape, dtype=np.bool_ if name == "selected" else np.float32)
    for k, (sample, (row, start)) in enumerate(zip(rows, starts, strict=True)):
        assert not sample.trained[0], "no logits predict the first token"
        here = (row, slice(start, start + len(sample)))
        arrays["token_ids"][here] = sample.token_ids
        arrays["trained"][here] = sample.trained
        arrays["behaviour_logprobs"][here] = sample.behaviour_logprobs
        arrays["advantages"][here] = sample.advantage
        arrays["weights"][here] = sample.trained * sample.weight
        arrays["sequence_ids"][here] = k
        for name in optional:
            arrays[name][here] = getattr(sample, name)
    return TensorDict({name: torch.from_numpy(array) for name, array in arrays.items()}, batch_size=shape)


def _present(rows: Sequence[Sample]) -> list[str]:
    """The optional arrays that these samples have; all of them or none."""
    names = [name for name in OPTIONAL if getattr(rows[0], name) is not None]
    assert all((getattr(row, name) is not None) == (name in names) for row in rows for name in OPTIONAL)
    return names
