"""The bound: the bare matrix products of the same ids at the same batch sizes.

While an engine runs, :class:`Tape` notes how many ids each of its steps fed to the model and how many logits it asked
for. :func:`bare_products` then multiplies matrices of exactly these shapes with the model's own weights: every linear
map of every layer, and the head. No attention, norms, rotations, sampling or bookkeeping.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from agents.embedded import EmbeddedAgent
from agents.embedded.feed import Feed


class Tape:
    """Notes the size of every step of an engine: ids fed, and logits asked for."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def listen(self, agent: EmbeddedAgent) -> None:
        forward = agent._batch._forward

        def noted(feed: Feed) -> torch.Tensor:
            self.steps.append((len(feed.token_ids), len(feed.wanted)))
            return forward(feed)

        agent._batch._forward = noted


def bare_products(model: PreTrainedModel, steps: list[tuple[int, int]]) -> float:
    """CPU seconds of the products of these steps."""
    head = model.get_output_embeddings()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not head]
    longest = max(ids for ids, _ in steps)
    inputs = {width: torch.randn(longest, width) for width in {w.shape[1] for w in [*weights, head.weight]}}
    start = time.process_time()
    with torch.inference_mode():
        for ids, wanted in steps:
            for weight in weights:
                F.linear(inputs[weight.shape[1]][:ids], weight)
            if wanted:
                F.linear(inputs[head.weight.shape[1]][:wanted], head.weight)
    return time.process_time() - start
