"""What ``benchmarks/training.py`` trains on, and the bound of a training step.

The episodes of the demo's model are traces of its cold start, turned into groups: problems with several responses
each, which are those of other problems, so that what the samples of a group have in common is their prompt and some
words. A policy that has learnt repeats itself far more. Rewards alternate, so that no group is without a difference.

The bound is the time of the bare matrix products, forward and backward, of all linear maps over a number of tokens and
of the head over the trained ones: no attention, norms, activations, loss, optimizer or bookkeeping.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from algos.batch import Sample
from algos.config import OptimConfig, TinyModelConfig, TrainConfig
from algos.policy.prefixes import PrefixTree
from algos.tiny import make_tiny
from retool_env.compose import compose
from retool_env.dialects import make_dialect
from retool_env.recorded import Recording, replay
from retool_env.sources.traces import TracePhase, arithmetic_traces
from retool_env.tokenizer import load_tokenizer

GROUP = 8
PHASE = TracePhase(share=1, tool_easy=0.3, tool_hard=0.82)  # the longer one of the demo's cold start


@dataclass(frozen=True, kw_only=True)
class Work:
    """Where the model and the episodes are, and how many tokens are trained in each step."""

    path: Path
    trained: list[int]
    tokens: float
    episodes: int


def make_work(folder: Path, *, prompts: int, steps: int) -> Work:
    """Write the demo's model with random weights, and episodes for some steps, to ``folder``."""
    model = folder / "model"
    make_tiny(model, TinyModelConfig(), seed=0)
    env = compose("train", TrainConfig, ["experiment=tiny_grpo"]).env
    dialect = make_dialect(env.dialect, instructions=env.instructions)
    given = {"dialect": dialect, "tokenizer": load_tokenizer(str(model)), "limits": env.episode_limits}
    traces = list(arithmetic_traces(steps * prompts * GROUP, seed=0, phases=[PHASE], dialect=dialect))
    rows = []
    for k, trace in enumerate(traces):
        problem = traces[k - k % GROUP].problem
        episode = replay(Recording(problem=problem, turns=trace.turns), **given)
        trained = [int(is_action) for is_action in episode.action_mask]
        ids = [int(token) for token in episode.token_ids]
        rows.append({"token_ids": ids, "trained": trained, "prompt_length": trained.index(1), "reward": float(k % 2)})
    size = prompts * GROUP
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    optim = OptimConfig(lr=1e-5).model_dump(include={"lr", "betas", "max_grad_norm"})
    path = folder / "work.json"
    path.write_text(json.dumps({"model": str(model), "group_size": GROUP, "steps": parts} | optim))
    trained_tokens = [sum(sum(row["trained"]) for row in part) for part in parts]
    return Work(path=path, trained=trained_tokens, tokens=sum(len(r["token_ids"]) for r in rows) / steps, episodes=size)


def skewed_samples(prompts: int, *, vocab: int, prompt: int, median: int, limits: tuple[int, int]) -> list[Sample]:
    """Groups of responses whose lengths are log-normal, as in ``benchmarks/rollout.py``; random ids."""
    rng, samples = np.random.default_rng(0), []
    for group in range(prompts):
        start = rng.integers(0, vocab, prompt)
        for k in range(GROUP):
            length = int(np.clip(np.exp(rng.normal(np.log(median), 0.8)), *limits))
            ids = np.concatenate([start, rng.integers(0, vocab, length)])
            trained = np.arange(len(ids)) >= prompt
            logprobs = np.where(trained, -np.log(vocab), np.nan).astype(np.float32)
            samples.append(
                Sample(
                    token_ids=ids,
                    trained=trained,
                    behaviour_logprobs=logprobs,
                    advantage=1.0 - 2 * (k % 2),
                    order=len(samples),
                    group=group,
                )
            )
    return samples


@dataclass
class Ran:
    """Tokens that went through the backbone, padding included, and pairs that went through the head."""

    tokens: int = 0
    scored: int = 0


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[Ran]:
    """Counts what the backbone runs while this is open."""
    ran = Ran()

    def note(module: nn.Module, args: object, inputs: dict[str, torch.Tensor | PrefixTree]) -> None:
        ids, tree = inputs["input_ids"], inputs.get("prefixes")
        assert isinstance(ids, torch.Tensor)
        ran.tokens += ids.numel()
        ran.scored += len(tree.targets) if isinstance(tree, PrefixTree) else 0

    handle = model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield ran
    finally:
        handle.remove()


def products(model: PreTrainedModel, *, tokens: int, scored: int) -> float:
    """CPU seconds of the products: the layers over ``tokens`` tokens, the head over ``scored`` ones."""
    head = model.get_output_embeddings()
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    seconds = 0.0
    for weights, num in ((layers, tokens), ([head.weight], scored)):
        for weight in weights:
            inputs, grads = torch.randn(num, weight.shape[1]), torch.randn(num, weight.shape[0])
            start = time.process_time()
            with torch.no_grad():
                F.linear(inputs, weight)
                torch.mm(grads, weight)
                torch.mm(grads.T, inputs)
            seconds += time.process_time() - start
    return seconds
