"""A training step beside TRL's and beside its bound: `python benchmarks/training.py [--skip-peers] [--help]`.

1. The demo's model of 0.7 million parameters, 20 prompts with 8 episodes each: trained tokens per CPU second, beside
   `GRPOTrainer` of TRL with the same prompts and the same sampled tokens. Of TRL only passes of the model, loss and
   optimizer count; of ours everything behind the rollout. Both must find the same loss and gradient in the first step.
2. The LM head at a vocabulary of 151,936: peak memory beside TRL's fused head and beside one tensor of all logits.
3. A model of 50 million parameters: our step beside its bound, the bare matrix products forward and backward
   (`engines/steps.py`).

Contestants are processes of one thread each (`peers/train_*.py`), which take turns step by step, so that a slow minute
of the machine touches all of them; TRL is installed under `--cache` at the first time. At the end come the bars, and 1
as the exit code when one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scorer
from engines.steps import Work, counted, make_work, products, skewed_samples
from players import CACHE, PLAYERS, install
from rich.console import Console
from rich.table import Table
from rollout import fifty_million

from agents.loading import setup_torch
from algos.actor_critic import around
from algos.algo_config import AlgoConfig
from algos.config import OptimConfig, TrainConfig
from algos.head import HeadSpec
from algos.policy.world import World
from algos.update import update

TRL = ("trl==1.16.0", "torch==2.13.0", "transformers==5.12.1")
OURS = {"ours": {}, "ours, layout=sorted": {"layout": "sorted"}}
THEIRS = {
    "TRL, 32 rows at once": {"rows": 32, "bf16": False},
    "TRL, 160 rows at once": {"rows": 160, "bf16": False},
    "TRL, 32 rows, bf16": {"rows": 32, "bf16": True},
}
PROMPTS, STEPS = 20, 4
BAR, MEMORY_BAR, BOUND_BAR = 2.0, 0.2, 0.7
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(scorer.MIB)}  # what tensors need is measured, not what is kept for later
Verdict = tuple[str, str, bool]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a contestant."""

    seconds: float
    loss: float
    grad_norm: float


@dataclass
class Contestant:
    """A running ``train_NAME.py`` that waits for its turns."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    steps: list[Step] = field(default_factory=list)

    @staticmethod
    def start(name: str, program: str, python: Path, order: dict[str, Any], folder: Path) -> Contestant:
        log = folder / f"{name}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [python, PLAYERS / program, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=_environment(),
                text=True,
            )
        return Contestant(name, process, log)

    def turn(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its log says why
            print("step", file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} failed:\n{self.log.read_text()[-2000:]}")
        self.steps.append(Step(**json.loads(line)))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def rate(self, work: Work) -> float:
        """Trained tokens per CPU second; the first step warms up."""
        rates = [work.trained[k % len(work.trained)] / step.seconds for k, step in enumerate(self.steps)]
        return statistics.median(rates[1:])


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def compete(work: Work, folder: Path, trl: Path | None, steps: int) -> list[Contestant]:
    """All contestants, step by step in turns."""
    order = {"work": str(work.path)}
    mine = Path(sys.executable)
    contestants = [
        Contestant.start(name, "train_retool.py", mine, order | {"algo": algo}, folder) for name, algo in OURS.items()
    ]
    if trl is not None:
        contestants += [
            Contestant.start(name, "train_trl.py", trl, order | settings, folder) for name, settings in THEIRS.items()
        ]
    for number in range(steps):
        print(f"step {number + 1} of {steps}", flush=True)
        for contestant in contestants:
            contestant.turn()
    for contestant in contestants:
        contestant.close()
    return contestants


def speed(contestants: Sequence[Contestant], work: Work) -> Iterator[Verdict]:
    """Print every rate; yields the bars."""
    rates = {contestant.name: contestant.rate(work) for contestant in contestants}
    table = Table("", "trained tokens per CPU s", "ours is", "first loss", "first gradient norm")
    for contestant in contestants:
        name, first = contestant.name, contestant.steps[0]
        times = f"{rates['ours'] / rates[name]:.2f} x"
        table.add_row(name, f"{rates[name]:,.0f}", times, f"{first.loss:.5f}", f"{first.grad_norm:.5f}")
    about = f"{work.episodes} episodes, {work.tokens:,.0f} tokens, {statistics.mean(work.trained):,.0f} of them trained"
    Console().print(f"0.7M parameters; a step has {about}", table)
    exact = [contestant.steps[0] for contestant in contestants if "bf16" not in contestant.name]
    same = all(_close(step.loss, exact[0].loss) and _close(step.grad_norm, exact[0].grad_norm) for step in exact)
    yield "the same loss and gradient norm", "within 0.5 %, float32", same
    peers = {name: rate for name, rate in rates.items() if name in THEIRS}
    if peers:
        best = max(peers, key=peers.__getitem__)
        times = rates["ours"] / peers[best]
        yield "trained tokens per CPU second", f"{times:.2f} x {best} (at least {BAR:g})", times >= BAR


def _close(one: float, two: float) -> bool:
    return abs(one - two) <= 5e-3 * abs(two)


def heads(trl: Path | None, options: argparse.Namespace) -> Iterator[Verdict]:
    """Measure the heads, print, and yield the bars."""
    shape = {"tokens": options.tokens, "hidden": 256, "vocab": 151_936}
    spec, logits = HeadSpec(), options.tokens * shape["vocab"] * 4
    ours, seconds, _ = scorer.run(argparse.Namespace(**shape, threads=1, device="cpu"), (spec.rows, spec.columns))
    print(f"LM head, {shape['tokens']} tokens x {shape['vocab']} entries, all logits {logits / scorer.MIB:,.0f} MiB")
    print(f"  ours: peak {ours / scorer.MIB:,.0f} MiB, {seconds:.1f} CPU s")
    share = ours / logits
    yield "peak of the head", f"{share:.2f} of all logits (at most {MEMORY_BAR})", share <= MEMORY_BAR
    if trl is None:
        return
    command = [trl, PLAYERS / "head_trl.py", json.dumps(shape)]
    out = subprocess.run(command, env=_environment() | ALLOCATOR, capture_output=True, text=True, check=True).stdout
    theirs = json.loads(out.splitlines()[-1])
    print(f"  TRL: peak {theirs['peak'] / scorer.MIB:,.0f} MiB, {theirs['seconds']:.1f} CPU s")
    times = ours / theirs["peak"]
    yield "peak of the head beside TRL's fused head", f"{times:.2f} of it (at most 1)", times <= 1


def bound(turns: int) -> Iterator[Verdict]:
    """Measure our step at 50 million parameters and its bound, print, and yield the bar."""
    setup_torch(seed=0, threads=1, deterministic=True)
    model = fifty_million()
    samples = skewed_samples(4, vocab=model.config.vocab_size, prompt=40, median=48, limits=(16, 256))
    tokens, trained = sum(map(len, samples)), sum(sample.num_trained for sample in samples)
    config = TrainConfig(algo=AlgoConfig(), optim=OptimConfig(lr=1e-5))
    parts, shares, packed = around(model, config), list[float](), list[float]()
    print(f"50M parameters; a step has {len(samples)} episodes, {tokens:,} tokens, {trained:,} of them trained")
    for number in range(turns + 1):
        with counted(model) as ran:
            start = time.process_time()
            update(parts, samples, config, World(), step=number)
            seconds = time.process_time() - start
        ours, whole = (
            products(model, tokens=num, scored=scored)
            for num, scored in ((ran.tokens, ran.scored or trained), (tokens, trained))
        )
        about = f"products of the {ran.tokens:,} tokens that ran {ours:.2f}, of the packed batch {whole:.2f}"
        print(f"  step {seconds:.2f} CPU s, {about}{' (warming up)' if number == 0 else ''}", flush=True)
        shares.append(ours / seconds)
        packed.append(whole / seconds)
    share, of_packed = statistics.median(shares[1:]), statistics.median(packed[1:])
    figure = (
        f"{share:.0%} of the bound of the tokens that ran (at least {BOUND_BAR:.0%}), {of_packed:.0%} of the packed"
    )
    yield "50M parameters", figure, share >= BOUND_BAR


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where TRL is installed")
    parser.add_argument("--skip-peers", action="store_true", help="ours alone; nothing is installed")
    parser.add_argument("--steps", type=int, default=9, help="of every contestant; the first warms up")
    parser.add_argument("--tokens", type=int, default=2048, help="that the head scores")
    parser.add_argument("--turns", type=int, default=3, help="measurements of the larger model")
    options = parser.parse_args()
    trl = None if options.skip_peers else install("trl", TRL, options.cache.absolute())
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = make_work(folder, prompts=PROMPTS, steps=STEPS)
        rows = list(speed(compete(work, folder, trl, options.steps), work))
    rows += [*heads(trl, options), *bound(options.turns)]
    print(f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    if trl is None:
        print("not measured: everything beside TRL")
    for what, figure, met in rows:
        print(f"{'met ' if met else 'MISSED'}  {what}: {figure}")
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
