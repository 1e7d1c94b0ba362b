"""What tests of losses share: scorers that are tables, rows by hand, random samples, gradients of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tensordict import TensorDict
from torch import nn
from torchrl.objectives import LossModule
from transformers import Qwen2Config, Qwen2ForCausalLM

from algos.batch import Layout, Sample, micro_batches

NAN = float("nan")


class Table(nn.Module):
    """A scorer whose log-probabilities (and entropies) are parameters: the loss alone is under test."""

    def __init__(self, logprobs: Sequence[float], entropy: Sequence[float] | None = None) -> None:
        super().__init__()
        self.logprobs = nn.Parameter(torch.tensor(logprobs, dtype=torch.float64))
        self.entropy = nn.Parameter(torch.tensor(entropy or [0.5] * len(logprobs), dtype=torch.float64))

    def forward(self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None):
        return self.logprobs, self.entropy


def one_row(
    behaviour: Sequence[float],
    advantages: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    sequences: Sequence[int] | None = None,
    **extra: Sequence[float] | Sequence[bool],
) -> TensorDict:
    """A batch of one row whose first token is not trained and all others are."""
    num = len(behaviour)
    values = {
        "token_ids": torch.zeros(1, num + 1, dtype=torch.long),
        "trained": torch.tensor([[False] + [True] * num]),
        "sequence_ids": torch.tensor([[0, *(sequences or [0] * num)]]),
        "behaviour_logprobs": torch.tensor([[NAN, *behaviour]], dtype=torch.float64),
        "advantages": torch.tensor([[0.0, *advantages]], dtype=torch.float64),
        "weights": torch.tensor([[0.0, *(weights or [1.0] * num)]], dtype=torch.float64),
    }
    for name, row in extra.items():
        values[name] = torch.tensor([[row[0], *row]])
    return TensorDict(values, batch_size=[1, num + 1])


VOCAB = 60


def small_model(**shape: int | float | bool) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights in float64, large enough for every mistake and small enough for many passes."""
    config = Qwen2Config(
        **{
            "vocab_size": VOCAB,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
        }
        | shape
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).double()


def make_samples(num: int, seed: int = 0, *, longest: int = 30, extras: bool = False) -> list[Sample]:
    """Random samples in groups of three; with ``extras``, with every optional array, and per-token advantages."""
    rng = np.random.default_rng(seed)
    samples = []
    for order in range(num):
        length = int(rng.integers(6, longest))
        trained = rng.random(length) < 0.5
        trained[0], trained[-1] = False, True

        def logprobs(trained=trained, length=length) -> np.ndarray:
            return np.where(trained, -rng.random(length) * 3, np.nan).astype(np.float32)

        more = {}
        if extras:
            names = ("proximal_logprobs", "reference_logprobs", "values", "returns")
            more = {name: logprobs() for name in names} | {"selected": trained & (rng.random(length) < 0.3)}
        samples.append(
            Sample(
                token_ids=rng.integers(0, VOCAB, length),
                trained=trained,
                behaviour_logprobs=logprobs(),
                advantage=rng.normal(size=length) if extras else float(rng.normal()),
                order=order,
                group=order // 3,
                **more,
            )
        )
    return samples


def gradients(
    model: nn.Module,
    loss: LossModule | Callable[[TensorDict], TensorDict],
    samples: Sequence[Sample],
    *,
    max_tokens: int = 10_000,
    layout: Layout = "sorted",
) -> torch.Tensor:
    """Of all parameters of the model after one step, flat."""
    model.zero_grad()
    for batch in micro_batches(samples, max_tokens=max_tokens, layout=layout):
        loss(batch)["loss_objective"].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((value - expected).abs().max() / expected.abs().max())
