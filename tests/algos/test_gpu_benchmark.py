"""``benchmarks/gpu.py`` at a size for any machine: it runs, and it counts FLOPs as torch does."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2ForCausalLM

from algos.batch import micro_batches
from algos.plan.shapes import Shape
from algos.scorer import Scorer
from benchmarks.gpu import SHAPES, main, make_samples, model_flops

TINY = ["--shape", "tiny", "--device", "cpu", "--tokens", "256", "--longest", "128", "--sampled", "8"]


def test_it_runs_where_there_is_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--steps", "1", "--warmup", "1", "--micro-batches", "2"]) == 0
    said = capsys.readouterr().out
    assert "tokens/s" in said
    gap = float(said.split("max ")[1].split()[0])
    assert 0 < gap < 0.1, "bfloat16 on both sides, not the same sums"


def test_products_are_counted_as_torch_counts_them() -> None:
    config = SHAPES["tiny"]
    model = Qwen2ForCausalLM(config).eval()
    samples = make_samples(config, tokens=200, longest=128, seed=0)
    counter = FlopCounterMode(display=False)
    with counter:
        for batch in micro_batches(samples, max_tokens=1):
            Scorer(model)(batch["token_ids"], batch["trained"])[0].sum().backward()
    products = sum(
        count
        for name, count in counter.get_flop_counts()["Global"].items()
        if name in (torch.ops.aten.mm, torch.ops.aten.addmm)
    )
    attention = 6 * config.num_hidden_layers * config.hidden_size * sum(len(sample) ** 2 for sample in samples)
    # The head adds to its gradients in place, which torch's counter does not see.
    products += 4 * sum(sample.num_trained for sample in samples) * config.hidden_size * config.vocab_size
    assert products == pytest.approx(model_flops(Shape.of(config), samples) - attention, rel=1e-6)
