"""The scorer: alignment, chunking, padding, temperature, entropy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.loading import load_model
from algos.scorer import Scorer


@pytest.fixture(scope="module")
def model(tiny_folder: Path):
    return load_model(str(tiny_folder)).double()


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 300, (3, 12), generator=generator)
    trained = torch.rand(3, 12, generator=generator) < 0.5
    trained[:, 0] = False
    return ids, trained


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_those_of_the_full_logits(model, temperature: float) -> None:
    ids, trained = rows()
    logprobs, entropy = Scorer(model, temperature=temperature)(ids, trained)
    full = (model(input_ids=ids).logits[:, :-1].double() / temperature).log_softmax(-1)
    expected = full.gather(-1, ids[:, 1:, None])[..., 0][trained[:, 1:]]
    # The head's logits are promoted to float32 at most: 1e-6 is that precision.
    assert torch.allclose(logprobs.double(), expected, atol=1e-5)
    distributions = torch.distributions.Categorical(logits=full[trained[:, 1:]])
    assert torch.allclose(entropy.double(), distributions.entropy(), atol=1e-4)


def test_chunks_change_neither_value_nor_gradient(model) -> None:
    ids, trained = rows()
    results = []
    for chunk in (4096, 3):
        model.zero_grad()
        logprobs, _ = Scorer(model, chunk=chunk)(ids, trained)
        (logprobs * torch.arange(len(logprobs))).sum().backward()
        results.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-5, atol=1e-6)


def test_padding_behind_a_row_changes_nothing(model) -> None:
    ids, trained = rows()
    padded_ids = torch.cat([ids, torch.zeros(3, 5, dtype=torch.long)], dim=1)
    padded_trained = torch.cat([trained, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    assert torch.allclose(Scorer(model)(ids, trained)[0], Scorer(model)(padded_ids, padded_trained)[0], atol=1e-6)


def test_nothing_to_score_is_an_empty_result_that_can_be_differentiated(model) -> None:
    ids, trained = rows()
    logprobs, entropy = Scorer(model)(ids, torch.zeros_like(trained))
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
