"""The embedded engine beside other ways to generate: ``python benchmarks/rollout.py [--help]``.

Two kinds of work, each for a model of 0.7 million parameters (the demo's, random weights or a checkpoint) and one of 50
million (random weights):

(a) 64 samples of skewed lengths, eight to a prompt;
(b) episodes of 2 to 6 turns (2 to 4 for the larger model), 64 in flight; behind every turn but the last a program
really runs in the sandbox.

Engines: ours, free-running, and for (b) also in rounds, which is the deterministic mode; ``transformers.generate`` (a
padded batch; for episodes a new prefill every turn); transformers' continuous batching. What counts is ids sampled per
CPU second of this process, all its threads; the sandbox's processes do not count, the threads that talk to them do. One
torch thread unless told otherwise: that is best per CPU second, for every engine. Engines take turns, so that a slow
minute of the machine touches all of them. With ``--sglang`` a server that runs already takes part for the smaller
model; the CPU time of its processes counts (start it with ``OMP_NUM_THREADS=1``).

The bound is the time of the bare matrix products of the same ids at the same batch sizes (``engines/bound.py``). At the
end come the bars, and 1 as the exit code when one is missed.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from engines.bound import Tape, bare_products
from engines.peers import ContinuousAgent, GenerateAgent
from engines.server import cpu_seconds
from engines.work import Player, make_episodes, together
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from agents.embedded import EmbeddedAgent
from agents.loading import load_model, setup_torch
from agents.sglang import SGLangAgent
from algos.config import TinyModelConfig
from algos.tiny import make_tiny
from retool_env.sandbox import LocalSandbox, Sandbox
from retool_env.tokenizer import Tokenizer, load_tokenizer

# Ours must sample this many times as many ids per CPU second.
BARS = {
    "a": {"generate": 1.5, "continuous batching": 1.0},
    "b": {"generate": 2.5, "continuous batching": 1.0},
}
BOUND_SIZE, BOUND_BAR = "50M", 0.6
SIZES = ("0.7M", "50M")
SHORTER = {"scale": 0.5, "turns": (2, 4), "num_episodes": 64}


@dataclass
class Result:
    """Ids sampled and CPU seconds, once per turn of the measurement."""

    ids: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(n / s for n, s in zip(self.ids, self.seconds, strict=True))


class Bench:
    """All engines on one model.

    Args:
        scale: of the lengths; the larger model gets shorter ones, so that a run ends.
        turns: of an episode, from and to.
        num_episodes: for work (b).
        sglang: address of a server of this model, and its process.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        sandbox: Sandbox,
        *,
        scale: float,
        turns: tuple[int, int],
        num_episodes: int,
        sglang: tuple[str, int] | None = None,
    ) -> None:
        self._model, self._tokenizer, self._sandbox = model, tokenizer, sandbox
        make = functools.partial(make_episodes, tokenizer=tokenizer)
        self._samples = make(64, turns=(1, 1), median=int(96 * scale), limits=(16, int(512 * scale)), seed=0)
        self._episodes = make(num_episodes, turns=turns, median=int(64 * scale), limits=(16, int(192 * scale)), seed=1)
        self._sglang = sglang
        self.results: dict[tuple[str, str], Result] = {}

    def turn(self, work: str) -> None:
        """Measure every engine once, and the bound of what the embedded engine did."""
        tape = Tape()
        self._measure(work, "embedded", lambda: self._embedded(work, tape))
        bound = self.results.setdefault((work, "bound"), Result())
        bound.ids.append(self.results[work, "embedded"].ids[-1])
        bound.seconds.append(bare_products(self._model, tape.steps))
        if work == "b":
            self._measure(work, "embedded, in rounds", self._embedded_in_rounds)
        self._measure(work, "generate", lambda: self._generate(work))
        self._measure(work, "continuous batching", lambda: self._continuous(work))
        if self._sglang is not None:
            self._measure(work, "sglang", lambda: self._served(work))

    def _measure(self, work: str, name: str, run: Callable[[], int]) -> None:
        result = self.results.setdefault((work, name), Result())
        start = self._cpu_seconds(name)
        result.ids.append(run())
        result.seconds.append(self._cpu_seconds(name) - start)
        print(f"  ({work}) {name}: {result.ids[-1]} ids in {result.seconds[-1]:.1f} CPU s", flush=True)

    def _embedded(self, work: str, tape: Tape) -> int:
        with closing(EmbeddedAgent(self._model, self._tokenizer)) as agent:
            tape.listen(agent)
            if work == "a":
                return together(agent, self._samples)
            return self._player().free(agent, agent.serve, agent.poke)

    def _embedded_in_rounds(self) -> int:
        with closing(EmbeddedAgent(self._model, self._tokenizer)) as agent:
            return self._player().rounds(agent)

    def _generate(self, work: str) -> int:
        agent = GenerateAgent(self._model, self._tokenizer.eos_id)
        return together(agent, self._samples) if work == "a" else self._player().rounds(agent)

    def _continuous(self, work: str) -> int:
        with ContinuousAgent(self._model, self._tokenizer.eos_id) as agent:
            if work == "a":
                return together(agent, self._samples)
            return self._player().free(agent, _sleep_until, lambda: None)

    def _served(self, work: str) -> int:
        assert self._sglang is not None
        with closing(SGLangAgent([self._sglang[0]], self._tokenizer)) as agent:
            player = Player(self._samples, self._sandbox, self._tokenizer) if work == "a" else self._player()
            return player.free(agent, _sleep_until, lambda: None)

    def _player(self) -> Player:
        return Player(self._episodes, self._sandbox, self._tokenizer)

    def _cpu_seconds(self, name: str) -> float:
        server = cpu_seconds(self._sglang[1]) if name == "sglang" and self._sglang is not None else 0.0
        return time.process_time() + server


def _sleep_until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.05)


def fifty_million() -> PreTrainedModel:
    """Qwen2, 12 layers of width 512 with 8 query and 2 key heads, MLP 2048, 8,192 ids: 49.8 million parameters."""
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).float().eval()


def measure(size: str, folder: str, sandbox: Sandbox, args: argparse.Namespace) -> Bench:
    tokenizer = load_tokenizer(folder)
    model = load_model(folder).eval() if size == "0.7M" else fifty_million()
    work = {"scale": 1.0, "turns": (2, 6), "num_episodes": 96} if size == "0.7M" else SHORTER
    sglang = (args.sglang, args.sglang_pid) if args.sglang and size == "0.7M" else None
    bench = Bench(model, tokenizer, sandbox, sglang=sglang, **work)
    print(f"{size}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for _ in range(args.turns):
        for work in args.work:
            bench.turn(work)
    return bench


def report(benches: dict[str, Bench]) -> Iterator[tuple[str, bool]]:
    """Print every rate and ratio; yields the bars and whether they are met."""
    table = Table("", *(f"({work}) {size}" for size, bench in benches.items() for work in _works(bench)))
    names = dict.fromkeys(name for bench in benches.values() for _, name in bench.results)
    for name in names:
        cells = []
        for bench in benches.values():
            for work in _works(bench):
                ours, other = bench.results[work, "embedded"], bench.results.get((work, name))
                cells.append(f"{other.rate:,.0f} ({ours.rate / other.rate:.2f})" if other else "")
        table.add_row(name, *cells)
    Console().print("ids sampled per CPU second (and the embedded engine's rate as a multiple of it)", table)
    for size, bench in benches.items():
        for work in _works(bench):
            ours = bench.results[work, "embedded"].rate
            for name, bar in BARS[work].items():
                ratio = ours / bench.results[work, name].rate
                yield f"({work}) {size}: {ratio:.2f} times {name}, at least {bar:g}", ratio >= bar
            if size == BOUND_SIZE:
                share = ours / bench.results[work, "bound"].rate
                yield f"({work}) {size}: {share:.0%} of the bound, at least {BOUND_BAR:.0%}", share >= BOUND_BAR


def _works(bench: Bench) -> list[str]:
    return list(dict.fromkeys(work for work, _ in bench.results))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder of a 0.7M model; random weights without it")
    parser.add_argument("--sglang", help="address of an SGLang server that serves --checkpoint")
    parser.add_argument("--sglang-pid", type=int, help="process of that server")
    parser.add_argument("--size", action="append", choices=SIZES, help="only this size")
    parser.add_argument("--work", action="append", choices=("a", "b"), help="only this kind of work")
    parser.add_argument("--turns", type=int, default=1, help="measure everything this many times (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    args = parser.parse_args()
    args.work = args.work or ["a", "b"]
    if args.sglang and not (args.checkpoint and args.sglang_pid):
        parser.error("--sglang needs --checkpoint, the folder that it serves, and --sglang-pid")
    setup_torch(seed=0, threads=args.threads, deterministic=False)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, LocalSandbox() as sandbox:
        if args.checkpoint is None:
            make_tiny(Path(folder), TinyModelConfig(), seed=0)
        path = args.checkpoint or folder
        benches = {size: measure(size, path, sandbox, args) for size in args.size or SIZES}
    print(f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    bars = list(report(benches))
    for text, met in bars:
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return int(not all(met for _, met in bars))


if __name__ == "__main__":
    sys.exit(main())
