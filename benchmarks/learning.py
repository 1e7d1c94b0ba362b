"""How soon the demo's model learns: `python benchmarks/learning.py [--out FOLDER] [--only NAME ...] [--help]`.

From one checkpoint, the demo's cold start, until 90 % of the demo's 500 held-out problems are answered right greedily:
GRPO and PPO of ours beside GRPO of TRL, all in the same environment, so that what differs is who samples and who
trains. They get the same problems in the same order, the same number of samples per step and the same learning rate.
``grpo`` and ``trl`` make one update of a step's samples; ``grpo4``, ``trl4`` and ``ppo`` make four, each of a quarter.

CPU time is user and system, sandboxes included; it begins with training, behind the imports. Examinations do not count:
after every step a contestant writes its weights and stands still, and this process plays the problems with our engine
and the weights of whoever it was. The first examination with 90 % is where a contestant has arrived.

Contestants are processes of their own (``benchmarks/peers/learn_*.py``), one at a time and in turns by seed; TRL is
installed under ``--cache`` at the first time. Every finished run is a file in ``--out`` and is not run again. ``grpo``
and ``unmasked`` go on to the last step, every eighth examined, because ``benchmarks/ablation.py`` draws them.

At the end come the bars, and 1 as the exit code when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from players import CACHE, PLAYERS, install
from rich.console import Console
from rich.table import Table

from agents.base import Sampling
from agents.embedded import EmbeddedAgent
from agents.loading import load_model
from agents.rollout import play
from algos.config import SftConfig, TrainConfig
from algos.sft import sft
from retool_env.compose import compose
from retool_env.config import EnvConfig
from retool_env.files import atomic
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer

ROOT = Path(__file__).parent.parent
TARGET = 0.9
# Ours makes nothing but progress, as TRL is told to: no trajectories are kept. The plain loop costs less CPU time than
# the collector's threads and gives the same bits; micro-batches of this size fit the cache.
LEAN = ("rollout.collector=plain", "rollout.store=false", "log_trajectories=0", "algo.micro_batch_tokens=2048")
OURS = {
    "grpo": ["experiment=tiny_grpo"],
    "grpo4": ["experiment=tiny_grpo", "algo.minibatches=4"],
    "ppo": ["experiment=tiny_ppo"],
    "unmasked": ["experiment=tiny_grpo", "algo.mask_tool_tokens=false"],
}
# Accumulation saves TRL a fourteenth of its time on a batch of this size; with four updates the parts are as small.
TRL = {"trl": {"updates": 1, "accumulation": 4}, "trl4": {"updates": 4, "accumulation": 1}}
PAIRS = (("grpo", "trl"), ("ppo", "trl"), ("grpo4", "trl4"), ("ppo", "trl4"))
TO_THE_END = ("grpo", "unmasked")
NAMES = [*OURS, *TRL]
Run = dict[str, Any]


def settings(name: str, seed: int, options: argparse.Namespace, checkpoint: Path) -> list[str]:
    """Overrides of ``retool train``; the run's own evaluations are left out."""
    return [
        *OURS[name],
        *LEAN,
        f"seed={seed}",
        f"threads={options.threads}",
        f"out={options.out / f'{name}-{seed}'}",
        f"model.path={checkpoint}",
        f"algo.steps={options.steps}",
        "save_every=0",
        "eval.every=0",
        "eval.greedy=false",
        "eval.problems.size=1",
    ]


def order(name: str, seed: int, options: argparse.Namespace, checkpoint: Path) -> dict[str, Any]:
    """What a contestant is told."""
    basis = settings("grpo" if name in TRL else name, seed, options, checkpoint)
    config = compose("train", TrainConfig, basis)
    told = {"folder": str(options.out / f"{name}-{seed}-weights"), "settings": basis}
    if name not in TRL:
        return told
    return told | {
        **TRL[name],
        "seed": seed,
        "threads": options.threads,
        "steps": options.trl_steps,
        "prompts": config.algo.prompts_per_step,
        "group_size": config.algo.group_size,
        "lr": config.optim.lr,
        "betas": config.optim.betas,
        "max_grad_norm": config.optim.max_grad_norm,
        "problems": config.problems.model_dump(),
        "env": config.env.model_copy(update={"tokenizer": str(checkpoint)}).model_dump(),
    }


def trl_requirements() -> list[str]:
    """What TRL's environment holds: TRL, our versions of what both use, and us."""
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    shared = [line for line in pins if line.startswith(("torch==", "transformers=="))]
    return ["trl==1.16.*", *shared, "-e", f"{ROOT}[tokens]"]


def examine(folder: Path, checkpoint: Path, env: EnvConfig) -> tuple[float, float]:
    """Share of the held-out problems that is answered right greedily, and that is answered with a call."""
    agent = EmbeddedAgent(load_model(str(folder)), load_tokenizer(str(checkpoint)))
    source = open_source(**TrainConfig().eval.problems.model_dump())
    assert source.size is not None
    greedy = Sampling(temperature=0.0)
    played = play(source, agent, env=env, num_episodes=source.size, num_slots=250, sampling=greedy)
    agent.close()
    right = [t.record.correct for t in played]
    return statistics.fmean(right), statistics.fmean(t.record.num_tool_calls > 0 for t in played)


def compete(name: str, seed: int, options: argparse.Namespace, checkpoint: Path, python: Path) -> Run:
    """One run of one contestant, examined on the way."""
    told = order(name, seed, options, checkpoint)
    log = options.out / f"{name}-{seed}.log"
    env = compose("train", TrainConfig, told["settings"]).env.model_copy(update={"tokenizer": str(checkpoint)})
    examinations: list[dict[str, float]] = []
    with log.open("w") as errors, _start(name, told, python, errors) as process:
        for row in _told(process):
            row["accuracy"], row["tool_rate"] = examine(Path(row.pop("folder")), checkpoint, env)
            examinations.append(row)
            print("  step {step:3d}  CPU {cpu:6.1f} s  wall {wall:6.1f} s  {accuracy:.1%}".format(**row), flush=True)
            assert process.stdin is not None
            print(_wait(name, row), file=process.stdin, flush=True)
    if process.returncode != 0:
        raise SystemExit(f"{name}, seed {seed}, failed:\n{log.read_text()[-2000:]}")
    return {"name": name, "seed": seed, "order": told, "load": os.getloadavg()[0], "examinations": examinations}


def _start(name: str, told: dict[str, Any], python: Path, errors: Any) -> subprocess.Popen[str]:
    peer = name in TRL
    environment = {key: value for key, value in os.environ.items() if not (peer and key.startswith("PYTHON"))}
    return subprocess.Popen(
        [python if peer else sys.executable, PLAYERS / f"learn_{'trl' if peer else 'retool'}.py", json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(told["threads"] if peer else "1")},
    )


def _wait(name: str, row: dict[str, float]) -> int:
    """Steps until the next examination; 0 for none."""
    if row["accuracy"] < TARGET:
        return 1
    return int(8 - row["step"] % 8) if name in TO_THE_END else 0


def _told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    while line := process.stdout.readline():
        yield json.loads(line)


def arrival(run: Run) -> dict[str, float] | None:
    """The first examination with the target; ``None`` where there is none."""
    return next((row for row in run["examinations"] if row["accuracy"] >= TARGET), None)


def cold_start(options: argparse.Namespace) -> Path:
    """The checkpoint that all start from."""
    if options.checkpoint is not None:
        return Path(options.checkpoint).absolute()
    folder = options.out / "sft"
    final = folder / "checkpoints" / "final"
    if not final.is_dir():
        sft(compose("sft", SftConfig, ["experiment=tiny_sft", f"threads={options.threads}", f"out={folder}"]))
    return final


def runs(options: argparse.Namespace) -> list[Run]:
    """All that were asked for: those that are there, and those that are run now."""
    checkpoint = cold_start(options)
    wanted = TRL.keys() & set(options.only)
    cache = options.cache.absolute()
    python = install("trl-learning", trl_requirements(), cache) if wanted else Path(sys.executable)
    torch.set_num_threads(options.threads)
    found: list[Run] = []
    for seed in options.seeds:
        for name in options.only:
            file = options.out / f"{name}-{seed}.json"
            if not file.is_file():
                print(f"{name}, seed {seed}", flush=True)
                run = compete(name, seed, options, checkpoint, python)
                with atomic(file) as temporary:
                    temporary.write_text(json.dumps(run, indent=1))
            found.append(json.loads(file.read_text()))
    return found


def figures(found: Sequence[Run], name: str) -> dict[str, list[float]]:
    """Steps, CPU and wall seconds of every arrival."""
    rows = [row for run in found if run["name"] == name and (row := arrival(run))]
    return {key: [row[key] for row in rows] for key in ("step", "cpu", "wall")}


def show(found: Sequence[Run]) -> None:
    table = Table(title=f"to {TARGET:.0%} of 500 held-out problems, greedily: medians and ranges")
    for column in ("who", "learned", "steps", "CPU s", "wall s", "CPU s per step"):
        table.add_column(column, justify="left" if column == "who" else "right")
    for name in dict.fromkeys(run["name"] for run in found):
        mine = [run for run in found if run["name"] == name]
        of = figures(found, name)
        last = [run["examinations"][-1] for run in mine]
        each = [row["cpu"] / row["step"] for row in last]
        cells = [_spread(of["step"], 0), _spread(of["cpu"], 1), _spread(of["wall"], 1), _spread(each, 2)]
        table.add_row(name, f"{len(of['step'])} of {len(mine)}", *cells)
    Console().print(table)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "not reached"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def verdicts(found: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """Each bar: what, figure with the bar, whether it is met."""
    rows: list[tuple[str, str, bool]] = []
    for name in ("grpo", "grpo4", "ppo"):
        mine = [run for run in found if run["name"] == name]
        learned = sum(arrival(run) is not None for run in mine)
        if mine:
            rows.append((f"{name} learns", f"{learned} of {len(mine)} seeds (all)", learned == len(mine)))
    for name, peer in PAIRS:
        ours, theirs = figures(found, name), figures(found, peer)
        if ours["cpu"] and theirs["cpu"]:
            cpu, wall = (statistics.median(theirs[key]) / statistics.median(ours[key]) for key in ("cpu", "wall"))
            text = f"{cpu:.2f} x sooner in CPU seconds (at least 2), {wall:.2f} x in wall seconds"
            rows.append((f"{name} beside {peer}", text, cpu >= 2))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="where runs and results are kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where TRL is installed")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=["grpo", "grpo4", "ppo", *TRL])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--checkpoint", help="to start from; without it the demo's cold start is made first")
    parser.add_argument("--steps", type=int, default=16, help="most steps of ours")
    parser.add_argument("--trl-steps", type=int, default=40, help="most steps of TRL's")
    parser.add_argument("--threads", type=int, default=1, help="of torch, for everybody")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    found = runs(options)
    show(found)
    rows = verdicts(found)
    for what, figure, met in rows:
        print(f"{'met ' if met else 'MISSED'}  {what}: {figure}")
    return 0 if all(met for _, _, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
