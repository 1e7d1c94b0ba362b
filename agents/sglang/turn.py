"""A turn as it is put together from the pieces that servers give back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from agents.base import Generation, Request
from agents.sglang.wire import GenerateReply
from agents.stops import end_of_turn
from retool_env.tokenizer import Tokenizer

__all__ = ["Turn"]


class Turn:
    """What has been sampled of one request.

    Args:
        number: from the name of weights to their version.

    Attributes:
        ids: sampled so far.
        finish_reason: ``""`` while the turn goes on.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer, *, number: Callable[[str | None], int]) -> None:
        self.request = request
        self.ids: list[int] = []
        self.finish_reason: Literal["", "stop", "length"] = ""
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._tokenizer = tokenizer
        self._number = number

    def add(self, reply: GenerateReply) -> None:
        """The next piece. One that the server aborted leaves the turn open, unless nothing is left to sample.

        A server looks for stop strings in what it sampled itself, in a window counted in tokens: it misses one that
        spans two pieces or is spelled in more tokens than usual. Those are found here, and what follows is dropped,
        which leaves a turn that was sampled all the same.
        """
        self.ids += reply.output_ids
        self._logprobs += reply.logprobs
        self._versions += map(self._number, reply.version_names)
        assert len(self.ids) <= self.request.budget, "the server sampled more than it was asked for"
        end = end_of_turn(self.ids, self.request.stop, self._tokenizer)
        if end is not None:
            self._keep(end)
            self.finish_reason = "stop"
        elif reply.meta_info.finish_reason.type != "abort":
            self.finish_reason = reply.meta_info.finish_reason.type
        elif len(self.ids) == self.request.budget:
            self.finish_reason = "length"

    def _keep(self, end: int) -> None:
        del self.ids[end:], self._logprobs[end:], self._versions[end:]

    def generation(self) -> Generation:
        """The turn as it is; ``abort`` when it has not ended."""
        return Generation(
            token_ids=np.array(self.ids, dtype=np.int64),
            logprobs=np.array(self._logprobs, dtype=np.float32),
            finish_reason=self.finish_reason or "abort",
            policy_version=np.array(self._versions, dtype=np.int64),
        )
