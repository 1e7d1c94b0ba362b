"""One request while the engine works on it."""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from agents.base import Generation, Request
from agents.embedded.kv import Shelf, Strip
from retool_env.errors import EngineError

__all__ = ["Row", "common_prefix"]


class Row:
    """One request, and what was sampled for it so far.

    Its keys and values lie in ``strip`` while its context is read and after it has finished, on ``shelf`` in row
    ``place`` while it decodes, and nowhere while it waits or when they were given up.

    Attributes:
        ids: sampled.
        logprobs: of these ids.
        versions: of the weights, per id.
        reason: why it ended; empty before.
        done: set when the result can be taken.
        error: instead of a result.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.uniforms = np.random.Generator(np.random.Philox(key=request.seed)).random(request.budget)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.versions: list[int] = []
        self.reason: Literal["", "stop", "length", "abort"] = ""
        self.strip: Strip | None = None
        self.shelf: Shelf[Row] | None = None
        self.place = -1
        self.done = threading.Event()
        self.error: EngineError | None = None

    @property
    def context(self) -> NDArray[np.int64]:
        """All ids so far."""
        if not self.ids:
            return self.request.token_ids
        return np.concatenate([self.request.token_ids, np.array(self.ids, dtype=np.int64)])

    @property
    def last_id(self) -> int:
        return self.ids[-1] if self.ids else int(self.request.token_ids[-1])

    @property
    def num_known(self) -> int:
        """Ids whose keys and values are there."""
        if self.shelf is not None:
            return int(self.shelf.lengths[self.place])
        return self.strip.length if self.strip is not None else 0

    @property
    def known(self) -> torch.Tensor:
        """Their keys and values, a view ``[num_layers, 2, num_heads, num_known, head_dim]``."""
        if self.shelf is not None:
            return self.shelf.row(self.place)
        assert self.strip is not None
        return self.strip.filled

    def result(self) -> Generation:
        """What was sampled.

        Raises:
            EngineError: the engine failed while it worked on this request.
        """
        if self.error is not None:
            raise self.error
        assert self.reason, "the request has not finished"
        return Generation(
            token_ids=np.array(self.ids, dtype=np.int64),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            finish_reason=self.reason,
            policy_version=np.array(self.versions, dtype=np.int64),
        )


def common_prefix(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many ids both start with."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    first = int(differ.argmax()) if length else 0
    return first if length and differ[first] else length
