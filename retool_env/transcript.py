"""The transcript of an episode: four aligned arrays and the spans that say who wrote what.

It is the only source of loss masks, KL terms, entropies, length penalties and the viewer's colours. It is
append-only while an episode runs (the episode appends) and frozen here, where the behaviour log-probabilities have
been joined to it. A log-probability that does not exist is NaN, never a made-up 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Role", "Span", "Transcript"]

Role = Literal["prompt", "assistant", "tool"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """``role`` wrote ``token_ids[start:end]``.

    ``turn`` counts assistant turns from 0; a tool span belongs to the turn that made the call, the prompt to turn 0.
    """

    role: Role
    turn: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What happened, token by token. All arrays have shape ``[num_tokens]``.

    Attributes:
        token_ids: prompt, sampled and tool tokens in the order in which the model saw them; int64.
        action_mask: True exactly where the policy sampled the token.
        logprobs: of the behaviour policy, float32; NaN where the token was not sampled or the agent gave none.
        policy_version: version of the weights that sampled the token; -1 where no policy did.
        spans: contiguous and covering: span k+1 starts where span k ends.
    """

    token_ids: NDArray[np.int64]
    action_mask: NDArray[np.bool_]
    logprobs: NDArray[np.float32]
    policy_version: NDArray[np.int64]
    spans: tuple[Span, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.action_mask), len(self.logprobs), len(self.policy_version)}
        assert len(lengths) == 1, f"transcript arrays differ in length: {lengths}"
        assert not np.isfinite(self.logprobs[~self.action_mask]).any(), "a token nobody sampled has a log-probability"
        ends = [0, *(span.end for span in self.spans)]
        assert [span.start for span in self.spans] == ends[:-1] and ends[-1] == len(self), "spans must tile the tokens"

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def num_action_tokens(self) -> int:
        return int(self.action_mask.sum())

    @property
    def prompt_length(self) -> int:
        return self.spans[0].end
