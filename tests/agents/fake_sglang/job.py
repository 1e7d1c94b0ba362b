"""One sample that is being generated, and how it is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retool_env.tokenizer import Tokenizer
from tests.agents.fake_sglang.request import Params


@dataclass(eq=False, kw_only=True)
class Job:
    rid: str
    input_ids: list[int]
    params: Params
    budget: int
    logprob_start: int
    on_change: Callable[[], None] = lambda: None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    finish: dict[str, Any] | None = None
    input_logprobs: list[tuple[float | None, int, None]] = field(default_factory=list)
    cached: int = 0
    retractions: int = 0
    started: bool = False
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def context(self) -> list[int]:
        return self.input_ids + self.ids

    def matched_stop(self, tokenizer: Tokenizer) -> str | None:
        """A stop string in the last ids, as many as the string has tokens and one more: what is spelled in more tokens
        than that is not seen."""
        for stop in self.params.stops:
            window = len(tokenizer.encode(stop)) + 1
            if stop in tokenizer.decode(self.ids[-window:]):
                return stop
        return None

    def text(self, tokenizer: Tokenizer) -> str:
        matched = self.finish.get("matched") if self.finish else None
        trim = not self.params.no_stop_trim
        ids = self.ids[:-1] if isinstance(matched, int) and trim else self.ids
        text = tokenizer.decode(ids)
        if isinstance(matched, str):
            end = text.find(matched)
            text = text[: end if trim else end + len(matched)]
        return text

    def snapshot(self, tokenizer: Tokenizer, *, version: str, final: bool) -> dict[str, Any]:
        """The reply as it is now; ``final`` says that nothing follows."""
        meta: dict[str, Any] = {"id": self.rid, "finish_reason": self.finish, "completion_tokens": len(self.ids)}
        meta["weight_version"] = self.versions[-1] if self.versions else version
        if self.started:
            meta |= {
                "prompt_tokens": len(self.input_ids),
                "cached_tokens": self.cached,
                "num_retractions": self.retractions,
                "input_token_logprobs": self.input_logprobs,
                "output_token_logprobs": [(p, token, None) for p, token in zip(self.logprobs, self.ids, strict=True)],
            }
        if final:
            meta["weight_versions"] = self._spans()
        return {"text": self.text(tokenizer), "output_ids": list(self.ids), "meta_info": meta}

    def _spans(self) -> list[dict[str, Any]]:
        spans: list[dict[str, Any]] = []
        for index, version in enumerate(self.versions):
            if not spans or spans[-1]["version"] != version:
                spans.append({"version": version, "start": index, "end": index})
            spans[-1]["end"] = index + 1
        return spans


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def draw(logits: NDArray[np.float32], params: Params, rng: np.random.Generator) -> tuple[int, float]:
    """An id, and its log-probability over the whole vocabulary at the request's temperature."""
    if params.temperature < 1e-6:
        plain = log_softmax(logits.astype(np.float64))
        token = int(plain.argmax())
        return token, float(plain[token])
    logprobs = log_softmax(logits.astype(np.float64) / params.temperature)
    order = np.argsort(-logprobs, kind="stable")
    kept = len(order) if params.top_k == -1 else min(params.top_k, len(order))
    probs = np.exp(logprobs[order[:kept]])
    probs = probs / probs.sum()
    if params.top_p < 1:
        inside = probs.cumsum() - probs < params.top_p
        probs = probs[inside] / probs[inside].sum()
    pick = min(int(np.searchsorted(probs.cumsum(), rng.random(), side="right")), len(probs) - 1)
    token = int(order[pick])
    assert math.isfinite(logprobs[token])
    return token, float(logprobs[token])
