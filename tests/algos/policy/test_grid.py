"""However a step is laid out over ranks, micro-batches and memory: the same log-probabilities, loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from algos.per_token import per_token
from algos.policy.config import ParallelConfig, PolicyOptions
from algos.policy.model import prepare
from algos.policy.world import World
from algos.scorer import Scorer
from tests.algos.policy.options import every_option
from tests.algos.policy.steps import alone, model_of, step_samples, together, worst
from tests.algos.policy.test_world import exchange
from tests.algos.ranks import run_ranks

TOLERANCE = {True: 1e-6, False: 1e-4}


def on_ranks(rank: int, sequences: tuple[int, ...]) -> None:
    """Runs on every rank: all layouts of these grids against one process."""
    samples = step_samples()
    for sequence, double in product(sequences, (True, False)):
        world = World.join(sequence_parallel=sequence)
        model = prepare(model_of(double=double), PolicyOptions(parallel=ParallelConfig(sequence=sequence)), world)
        plain = per_token(Scorer(model_of(double=double)), samples, max_tokens=1)
        expected_loss, expected = alone(model_of(double=double), samples)
        for accumulation, layout in product((1, 3), ("sorted", "packed")):
            scored = per_token(Scorer(model), samples, max_tokens=200 // accumulation, layout=layout)
            gap = max(np.nanmax(np.abs(a - b)) for a, b in zip(scored, plain, strict=True))
            loss, gradients = together(model, samples, world, accumulation=accumulation, layout=layout)
            error = worst(gradients, expected)
            if rank == 0:
                print(f"{world.num_data_ranks}x{sequence} {double=} {accumulation} {layout}: {gap:.1e} {error:.1e}")
            assert gap <= 1e-5
            assert error <= TOLERANCE[double]
            assert loss == pytest.approx(expected_loss, rel=TOLERANCE[double])


def test_one_process() -> None:
    torch.set_num_threads(1)
    world, samples = World.join(), step_samples()
    for double in (True, False):
        expected_loss, expected = alone(model_of(double=double), samples)
        model = prepare(model_of(double=double), PolicyOptions(), world)
        for accumulation, layout in product((1, 3), ("sorted", "packed")):
            loss, gradients = together(model, samples, world, accumulation=accumulation, layout=layout)
            assert worst(gradients, expected) <= TOLERANCE[double]
            assert loss == pytest.approx(expected_loss, rel=TOLERANCE[double])


def on_two_ranks(rank: int, folder: str, path: str) -> None:
    on_ranks(rank, (1, 2))
    every_option(path)
    (Path(folder) / f"rank-{rank}").touch()


def on_four_ranks(rank: int, folder: str, _: str) -> None:
    exchange(rank)
    on_ranks(rank, (2,))
    (Path(folder) / f"rank-{rank}").touch()


@pytest.mark.parametrize(
    ("num_ranks", "function"), [(2, on_two_ranks), pytest.param(4, on_four_ranks, marks=pytest.mark.slow)]
)
def test_ranks(tmp_path: Path, num_ranks: int, function: Callable[..., None]) -> None:
    """One start for all that this many ranks can show: importing takes longer than the rest."""
    model, ranks = tmp_path / "model", tmp_path / "ranks"
    model_of(tie_word_embeddings=True).save_pretrained(model)
    ranks.mkdir()
    run_ranks(function, num_ranks, str(ranks), str(model))
    assert len(list(ranks.iterdir())) == num_ranks
