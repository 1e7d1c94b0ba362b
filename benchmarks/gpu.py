"""Training on one GPU: `python benchmarks/gpu.py`.

A model of Qwen2.5-1.5B's shape with random weights takes optimizer steps on packed batches, through the trainer's own
code: bfloat16 compute, float32 masters, GRPO's loss, AdamW. Printed are trained and read tokens per second, model FLOPs
utilisation, peak memory, and the gap between the trainer's log-probabilities and those of the embedded engine, which
samples with the same weights cast to bfloat16.

FLOPs are those of the model: six per weight and token for the layers, six per weight of the head and *trained* token,
and causal attention within each sequence. What is computed a second time (the head's tiles, with `--checkpointing` the
layers) is not counted. `--shape tiny --device cpu` tries the same on any machine; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from agents.base import Request, Sampling
from agents.embedded import EmbeddedAgent
from algos.actor_critic import around
from algos.batch import Sample
from algos.config import TrainConfig
from algos.per_token import per_token
from algos.plan.shapes import KNOWN, Shape
from algos.policy.model import prepare
from algos.policy.world import World
from algos.update import update
from retool_env.tokenizer import ByteTokenizer

SHAPES = {
    "1.5b": KNOWN["Qwen2.5-1.5B-Instruct"],
    "0.5b": KNOWN["Qwen2.5-0.5B-Instruct"],
    "tiny": Qwen2Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=1000,
        max_position_embeddings=8192,
    ),
}
# Dense bfloat16 of the data sheets, in FLOP/s.
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
BAR = 0.45


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one run; rates are per second."""

    tokens: float
    trained: float
    flops: float
    peak_bytes: int
    gap_mean: float
    gap_max: float


def make_samples(config: Qwen2Config, *, tokens: int, longest: int, seed: int) -> list[Sample]:
    """Sequences of random ids, ``tokens`` in all, an eighth of each a prompt; log-uniform lengths up to ``longest``."""
    rng, samples, left = np.random.default_rng(seed), list[Sample](), tokens
    while left > 16:
        length = min(left, int(np.exp(rng.uniform(np.log(longest / 16), np.log(longest)))))
        trained = np.arange(length) >= max(1, length // 8)
        samples.append(
            Sample(
                token_ids=rng.integers(0, config.vocab_size, length),
                trained=trained,
                behaviour_logprobs=np.where(trained, -np.log(config.vocab_size), np.nan).astype(np.float32),
                advantage=float(rng.normal()),
                order=len(samples),
                group=len(samples) // 8,
            )
        )
        left -= length
    return samples


def model_flops(shape: Shape, samples: list[Sample]) -> float:
    """Of the forward and backward pass, as the module's docstring counts them."""
    widths = 2 * shape.query + 2 * shape.key + 3 * shape.intermediate  # q and o, k and v, gate, up and down
    tokens, trained = sum(map(len, samples)), sum(sample.num_trained for sample in samples)
    products = 6 * (tokens * shape.layers * shape.hidden * widths + trained * shape.hidden * shape.vocab)
    attention = 6 * shape.layers * shape.query * sum(len(sample) ** 2 for sample in samples)
    return float(products + attention)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def logprob_gap(
    engine_model: PreTrainedModel, scorer: torch.nn.Module, options: argparse.Namespace
) -> tuple[float, float]:
    """Mean and largest difference between trainer and engine, on turns that the engine samples."""
    agent, rng = EmbeddedAgent(engine_model, ByteTokenizer()), np.random.default_rng(1)
    requests = [
        Request(
            token_ids=rng.integers(0, 256, 24),
            budget=options.sampled,
            sampling=Sampling(temperature=1.0),
            seed=k,
            session=k,
        )
        for k in range(8)
    ]
    turns = agent.act_many(requests)
    agent.close()
    samples = [
        Sample(
            token_ids=np.concatenate([request.token_ids, turn.token_ids]),
            trained=np.arange(24 + len(turn.token_ids)) >= 24,
            behaviour_logprobs=np.concatenate([np.full(24, np.nan, dtype=np.float32), turn.logprobs]),
            order=request.seed,
        )
        for request, turn in zip(requests, turns, strict=True)
    ]
    scored = per_token(scorer, samples, max_tokens=options.tokens, layout="packed")
    gaps = np.concatenate(
        [np.abs(row - s.behaviour_logprobs)[s.trained] for row, s in zip(scored, samples, strict=True)]
    )
    return float(gaps.mean()), float(gaps.max())


def measure(options: argparse.Namespace) -> Figures:
    """Some steps that warm up, then some that count."""
    config, world = copy.deepcopy(SHAPES[options.shape]), World.join(device=options.device)
    torch.manual_seed(0)
    with torch.device(world.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    settings = TrainConfig.model_validate(
        {
            "model": {
                "compute_dtype": "bfloat16",
                "attention": "varlen",
                "gradient_checkpointing": options.checkpointing,
            },
            "algo": {
                "layout": "packed",
                "micro_batch_tokens": options.tokens,
                "head_rows": options.head_rows,
                "head_columns": options.head_columns,
            },
        }
    )
    engine = copy.deepcopy(model).to(torch.bfloat16).eval()
    parts = around(prepare(model, settings.model, world), settings)
    gap = logprob_gap(engine, parts.scorer, options)
    del engine
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    batches = [
        [
            replace(sample, group=sample.group + 1000 * part)
            for part in range(options.micro_batches)
            for sample in make_samples(config, tokens=options.tokens, longest=options.longest, seed=100 * step + part)
        ]
        for step in range(options.warmup + options.steps)
    ]
    start = 0.0
    for step, samples in enumerate(batches):
        if step == options.warmup:
            synchronise(world.device)
            start = time.perf_counter()
        update(parts, samples, settings, world, step=step)
    synchronise(world.device)
    seconds = time.perf_counter() - start
    counted = [sample for samples in batches[options.warmup :] for sample in samples]
    world.leave()
    return Figures(
        tokens=sum(map(len, counted)) / seconds,
        trained=sum(sample.num_trained for sample in counted) / seconds,
        flops=model_flops(Shape.of(config), counted) / seconds,
        peak_bytes=torch.cuda.max_memory_allocated() if world.device.type == "cuda" else 0,
        gap_mean=gap[0],
        gap_max=gap[1],
    )


def peak_flops(options: argparse.Namespace) -> float | None:
    """Of this GPU, where it is known."""
    if options.peak_tflops:
        return float(options.peak_tflops) * 1e12
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for part, flops in PEAK.items() if part in name), None)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.5b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, default=16384, help="of one packed batch")
    parser.add_argument("--micro-batches", type=int, default=4, help="of one optimizer step")
    parser.add_argument("--longest", type=int, default=4096, help="sequence")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--sampled", type=int, default=128, help="ids of each of 8 turns, for the gap")
    parser.add_argument("--head-rows", type=int, default=2048)
    parser.add_argument("--head-columns", type=int, default=32768)
    parser.add_argument("--checkpointing", action="store_true", help="compute the layers again in the backward pass")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bfloat16, where its name is not known")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --shape tiny --device cpu tries the program without one")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    found, most = measure(options), peak_flops(options)
    name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, shape {options.shape}, packed batches of {options.tokens} tokens")
    print(f"{'tokens/s':>24} {found.tokens:,.0f}, of which trained {found.trained:,.0f}")
    print(f"{'model TFLOP/s':>24} {found.flops / 1e12:,.2f}")
    print(f"{'peak memory':>24} {found.peak_bytes / 2**30:,.1f} GiB")
    print(f"{'log-probability gap':>24} mean {found.gap_mean:.2g}, max {found.gap_max:.2g}")
    if most is None:
        return 0
    share = found.flops / most
    verdict = "met" if share >= BAR else "NOT MET"
    print(f"{'MFU':>24} {share:.1%} of {most / 1e12:,.0f} TFLOP/s; at least {BAR:.0%}: {verdict}")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
