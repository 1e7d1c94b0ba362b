"""What tests of sharded models share: one optimizer step's gradients on a rank, and alone as the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from algos.batch import Layout, Sample, micro_batches, rank_batches, weighted
from algos.losses import KlPenalty, PolicyLoss, make_objective
from algos.policy.world import World
from algos.scorer import Scorer
from tests.algos.loss_tools import make_samples, small_model

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}


def model_of(*, double: bool = False, **shape: int | bool) -> PreTrainedModel:
    """Four query heads on two of keys and values, untied unless asked for."""
    model = small_model(**{**HEADS, "tie_word_embeddings": False, **shape}).eval()
    return model if double else model.float()


def step_samples(num: int = 9) -> list[Sample]:
    return make_samples(num, extras=True)


class Whole(nn.Module):
    """The oracle's scorer: logits of every sequence alone, by the model's own forward."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor, trained: torch.Tensor, position_ids: torch.Tensor | None = None):
        assert len(token_ids) == 1 and position_ids is None, "the oracle takes one sequence at a time"
        logits = self.model(input_ids=token_ids, use_cache=False).logits[0, :-1][trained[0, 1:]]
        logprobs = logits.log_softmax(-1)
        return logprobs.gather(-1, token_ids[trained][:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def policy_loss(scorer: nn.Module) -> PolicyLoss:
    """Sequence-level ratios, a KL term and an entropy bonus: what needs all tokens of a sequence, and all keys."""
    return PolicyLoss(scorer, objective=make_objective("gspo"), kl=KlPenalty(coef=0.1), entropy_coef=0.05)


def alone(model: PreTrainedModel, samples: Sequence[Sample]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one process that takes the sequences one by one."""
    loss, total = policy_loss(Whole(model)), 0.0
    for batch in micro_batches(weighted(samples), max_tokens=1):
        value = loss(batch)["loss_objective"]
        value.backward()
        total += value.item()
    return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def together(
    model: nn.Module, samples: Sequence[Sample], world: World, *, accumulation: int = 1, layout: Layout = "sorted"
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gathered gradients of this rank's share, in ``accumulation`` micro-batches."""
    model.zero_grad()
    loss, total = policy_loss(Scorer(model)), 0.0
    share = weighted(samples, num_ranks=world.size)
    place = {"rank": world.data_rank, "num_ranks": world.num_data_ranks, "layout": layout}
    batches: list[TensorDict] = []
    for budget in range(400, 0, -10):
        if len(batches) != accumulation:
            batches = rank_batches(share, max_tokens=budget, **place)
    assert len(batches) == accumulation
    for batch in batches:
        value = loss(batch)["loss_objective"]
        value.backward()
        total += value.item()
    return world.sum(total) / world.size, gathered(model)


def gathered(model: nn.Module) -> dict[str, torch.Tensor]:
    """Gradients by name, whole."""
    return {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def worst(values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest difference over the largest entry of all gradients."""
    assert set(values) == set(expected), set(values) ^ set(expected)
    largest = max(float(grad.abs().max()) for grad in expected.values())
    return max(float((values[name] - grad).abs().max()) for name, grad in expected.items()) / largest
