"""Other engines as agents: ``transformers.generate`` and transformers' continuous batching.

Both are asked for ids only. ``generate`` could give log-probabilities, at the price of keeping every step's logits;
leaving them out favours it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.generation import ContinuousBatchingConfig
from transformers.utils import logging as hf_logging

from agents.base import Generation, Request


class _Budgets(StoppingCriteria):
    """Ends each row at its own budget."""

    def __init__(self, budgets: Sequence[int], start: int) -> None:
        self._ends = torch.tensor(budgets) + start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        return torch.full((len(input_ids),), input_ids.shape[1]) >= self._ends


class GenerateAgent:
    """A batch padded on the left, prefilled anew at every call; it lasts as long as its longest row."""

    def __init__(self, model: PreTrainedModel, eos_id: int) -> None:
        self._model, self._eos_id = model, eos_id

    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        width = max(len(request.token_ids) for request in requests)
        ids = torch.zeros(len(requests), width, dtype=torch.int64)
        seen = torch.zeros(len(requests), width, dtype=torch.int64)
        for row, request in enumerate(requests):
            ids[row, width - len(request.token_ids) :] = torch.from_numpy(request.token_ids)
            seen[row, width - len(request.token_ids) :] = 1
        budgets = [request.budget for request in requests]
        config = GenerationConfig(
            do_sample=True, top_k=0, max_new_tokens=max(budgets), eos_token_id=self._eos_id, pad_token_id=0
        )
        stop = StoppingCriteriaList([_Budgets(budgets, width)])
        made = self._model.generate(ids, attention_mask=seen, generation_config=config, stopping_criteria=stop)[
            :, width:
        ]
        return [self._cut(row[:budget].tolist()) for row, budget in zip(made, budgets, strict=True)]

    def act(self, request: Request) -> Generation:
        return self.act_many([request])[0]

    def _cut(self, ids: list[int]) -> Generation:
        end = ids.index(self._eos_id) + 1 if self._eos_id in ids else len(ids)
        return Generation.written(ids[:end])


class ContinuousAgent:
    """transformers' continuous batching: paged cache, a thread of its own, prefixes shared in whole blocks.

    Use it as a context manager.
    """

    def __init__(self, model: PreTrainedModel, eos_id: int) -> None:
        hf_logging.set_verbosity_error()
        config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=512, eos_token_id=eos_id, pad_token_id=0)
        batching = ContinuousBatchingConfig(
            block_size=32,
            num_blocks=2048,
            max_batch_tokens=1024,
            max_requests_per_batch=64,
            use_cuda_graph=False,
            seed=0,
            return_logprobs=True,
        )
        self._eos_id = eos_id
        self._implementation, self._model = model.config._attn_implementation, model
        self._manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
        self._numbers = itertools.count()
        self._waiting: dict[str, threading.Event] = {}
        self._results: dict[str, list[int]] = {}

    def __enter__(self) -> ContinuousAgent:
        self._manager.start()
        self._router = threading.Thread(target=self._route, daemon=True)
        self._router.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._manager.stop(block=True)
        self._router.join()
        self._manager.destroy()
        self._model.set_attn_implementation(self._implementation)

    def act(self, request: Request) -> Generation:
        return self.act_many([request])[0]

    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        waiting = []
        for request in requests:
            name, done = f"request-{next(self._numbers)}", threading.Event()
            self._waiting[name] = done
            waiting.append((name, done))
            self._manager.add_request(
                request.token_ids.tolist(), request_id=name, max_new_tokens=request.budget, eos_token_id=self._eos_id
            )
        for _, done in waiting:
            done.wait()
        return [Generation.written(self._results.pop(name)) for name, _ in waiting]

    def _route(self) -> None:
        for output in self._manager:
            if output.error is not None:
                raise RuntimeError(output.error)
            self._results[output.request_id] = output.generated_tokens
            self._waiting.pop(output.request_id).set()
