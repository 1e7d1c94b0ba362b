"""Generation by a transformers model in this process, batched, with the KV cache kept across an episode's turns.

The engine reads the very tensors that the trainer updates, so there is nothing to synchronise: ``set_version`` after
an optimizer step drops the KV caches of the old weights and stamps what is sampled from then on. That holds only for
an unsharded model of the dtype that is to generate; a sharded trainer gives this engine a gathered copy.

**Exact log-probabilities.** They come from the same float32 logits that the id was drawn from, after temperature,
top-k and top-p; for greedy requests from the plain distribution.

**Deterministic.** Each request draws from its own stream (its seed), by inverting the cumulative distribution. The
same list of requests in the same order gives the same bits; batch composition changes the last bits of floating-point
sums, so callers who need bit-equality (the lock-step batcher, the plain loop) submit equal batches.

Rows are right-aligned: ``[past | new]``, each block padded on the left and masked. What is not handled: sliding-window
and hybrid caches, encoder-decoder models, and batching requests that arrive while a batch runs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from agents.base import Generation, Request, Sampling
from agents.kv_cache import KVBuffer, SessionKV, gather_rows, split_rows
from retool_env.tokenizer import Tokenizer

__all__ = ["EmbeddedAgent"]

COMPACT_BELOW = 0.75


@dataclass
class _Row:
    """One request while its batch runs."""

    request: Request
    past: SessionKV | None
    uniforms: NDArray[np.float64]
    ids: list[int]
    logprobs: list[float]
    finish_reason: str = ""

    @property
    def new_ids(self) -> NDArray[np.int64]:
        """Context ids that are not in the cache yet; at least one."""
        return self.request.token_ids[len(self.past.ids) if self.past else 0 :]


class EmbeddedAgent:
    """Samples from ``model`` for many requests at a time.

    Args:
        model: a causal language model; used without gradients and without dropout.
        tokenizer: decodes what may hold a stop string, and knows the end-of-turn id.
        max_rows: rows of one batch; more requests run in several.
        cache_tokens: tokens of KV cache kept for episodes that may go on; the oldest episodes go first.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, max_rows: int = 256, cache_tokens: int = 65536
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_rows = max_rows
        self.cache_tokens = cache_tokens
        self.policy_version = 0
        self._sessions: OrderedDict[int, SessionKV] = OrderedDict()
        self._stops = _StopTable(tokenizer)
        self._lock = threading.Lock()

    def set_version(self, version: int) -> None:
        """Say that the weights changed: caches of the old ones are dropped."""
        with self._lock:
            self.policy_version = version
            self._sessions.clear()

    def act(self, request: Request) -> Generation:
        """One request; see :meth:`act_many`."""
        return self.act_many([request])[0]

    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        """All requests, in batches of at most ``max_rows``, in the given order."""
        with self._lock, torch.inference_mode():
            done: dict[int, Generation] = {}
            for sampling in dict.fromkeys(request.sampling for request in requests):
                alike = [i for i, request in enumerate(requests) if request.sampling == sampling]
                for start in range(0, len(alike), self.max_rows):
                    part = alike[start : start + self.max_rows]
                    done |= dict(zip(part, self._generate([requests[i] for i in part], sampling), strict=True))
            return [done[i] for i in range(len(requests))]

    def _generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        rows = [self._open(request) for request in requests]
        was_training = self.model.training
        self.model.eval()
        try:
            self._run(rows, sampling)
        finally:
            self.model.train(was_training)
        return [self._close(row) for row in rows]

    def _open(self, request: Request) -> _Row:
        past = self._sessions.pop(request.session, None)
        if past is not None and not past.is_prefix_of(request.token_ids):
            past = None
        uniforms = np.random.Generator(np.random.Philox(key=request.seed)).random(request.budget)
        return _Row(request=request, past=past, uniforms=uniforms, ids=[], logprobs=[])

    def _close(self, row: _Row) -> Generation:
        return Generation(
            token_ids=np.array(row.ids, dtype=np.int64),
            logprobs=np.array(row.logprobs, dtype=np.float32),
            finish_reason="stop" if row.finish_reason == "stop" else "length",
            policy_version=np.full(len(row.ids), self.policy_version, dtype=np.int64),
        )

    def _run(self, rows: list[_Row], sampling: Sampling) -> None:
        logits, buffer = self._prefill(rows)
        batch = rows  # what the buffer holds; rows that are finished stay until enough are to be worth a copy
        for step in range(max(row.request.budget for row in rows)):
            draws = [row.uniforms[min(step, len(row.uniforms) - 1)] for row in batch]
            uniforms = torch.tensor(draws, dtype=torch.float64, device=logits.device)
            ids, logprobs = _sample(logits, uniforms, sampling)
            for k, (row, token, logprob) in enumerate(zip(batch, ids.tolist(), logprobs.tolist(), strict=True)):
                if not row.finish_reason:
                    self._advance(row, token, logprob, buffer, k)
            keep = [k for k, row in enumerate(batch) if not row.finish_reason]
            if not keep:
                return
            if len(keep) <= COMPACT_BELOW * len(batch):
                index = torch.tensor(keep, device=logits.device)
                buffer.select(index)
                ids = ids[index]
                batch = [batch[k] for k in keep]
            logits = self._forward(ids[:, None], buffer)

    def _advance(self, row: _Row, token: int, logprob: float, buffer: KVBuffer, k: int) -> None:
        row.ids.append(token)
        row.logprobs.append(logprob)
        row.finish_reason = self._finished(row)
        if row.finish_reason:
            self._remember(row, buffer, k)

    def _prefill(self, rows: list[_Row]) -> tuple[torch.Tensor, KVBuffer]:
        """Feed what the cache does not hold; logits ``[num_rows, vocab]`` of the next id of every row."""
        device = next(self.model.parameters()).device
        width = max(len(row.new_ids) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        valid = np.zeros((len(rows), width), dtype=np.bool_)
        for k, row in enumerate(rows):
            ids[k, width - len(row.new_ids) :] = row.new_ids
            valid[k, width - len(row.new_ids) :] = True
        budget = max(row.request.budget for row in rows)
        buffer = gather_rows([row.past for row in rows], self.model, room=width + min(budget, 64), device=device)
        logits = self._forward(torch.from_numpy(ids).to(device), buffer, torch.from_numpy(valid).to(device))
        return logits, buffer

    def _forward(self, ids: torch.Tensor, buffer: KVBuffer, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Float32 logits ``[num_rows, vocab]`` after the last column of ``ids`` ``[num_rows, num_new]``."""
        mask, position_ids = buffer.extend(ids.shape[1], valid)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=buffer,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits
        return logits[:, -1].float()

    def _finished(self, row: _Row) -> str:
        if row.ids[-1] == self.tokenizer.eos_id or self._stops.hit(row.ids, row.request.stop):
            return "stop"
        return "length" if len(row.ids) == row.request.budget else ""

    def _remember(self, row: _Row, buffer: KVBuffer, k: int) -> None:
        """Keep the row's cache for its next turn, unless it ended its episode or was cut."""
        if row.finish_reason != "stop" or row.ids[-1] == self.tokenizer.eos_id:
            return
        ids = np.concatenate([row.request.token_ids, np.array(row.ids[:-1], dtype=np.int64)])
        self._sessions[row.request.session] = split_rows(buffer, k, ids)
        while sum(len(kv.ids) for kv in self._sessions.values()) > self.cache_tokens:
            self._sessions.popitem(last=False)


def _sample(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and their log-probabilities, both ``[num_rows]``, from logits ``[num_rows, vocab]``."""
    if sampling.temperature == 0:
        ids = logits.argmax(-1)
        return ids, logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    logprobs = _restrict(logits / sampling.temperature, sampling).log_softmax(-1)
    cumulative = logprobs.double().exp().cumsum(-1)
    # Scaling by the last entry keeps a draw near 1 inside of the support although the sum is not exactly 1.
    ids = torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0]
    ids = ids.clamp_max(logits.shape[-1] - 1)
    return ids, logprobs.gather(-1, ids[:, None])[:, 0]


def _restrict(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Logits with everything outside of top-k and top-p at minus infinity."""
    if sampling.top_k:
        kept = logits.topk(min(sampling.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kept, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.softmax(-1).sort(dim=-1, descending=True)
        beyond = (ordered.cumsum(-1) - ordered) >= sampling.top_p  # mass before the id; the first id always stays
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


class _StopTable:
    """Finds stop strings in sampled ids without decoding every id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._may_end: dict[tuple[str, ...], list[bool]] = {}

    def hit(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        """The text of ``ids`` holds a stop string that its last id completed."""
        if not stop:
            return False
        if stop not in self._may_end:
            last = {text[-1] for text in stop}
            pieces = (self._tokenizer.decode([i]) for i in range(self._tokenizer.vocab_size))
            self._may_end[stop] = [not last.isdisjoint(piece) for piece in pieces]
        table = self._may_end[stop]
        if ids[-1] >= len(table) or not table[ids[-1]]:
            return False
        tail = self._tokenizer.decode(ids[-max(len(text.encode()) for text in stop) :])
        return any(text in tail for text in stop)
