"""How fast the local sandbox is here, measured against the least it could cost.

The yardstick **F** is a bare fork, exit and wait of a process that has imported the same modules, taken in the same
session; everything is told as a multiple of it too, because such multiples carry over from one machine to another
and milliseconds do not. Every figure is the median over repetitions that take turns with each other.

Left out: other sandboxes (``benchmarks/sandbox.py`` sets them beside this one).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from retool_env.sandbox.base import RunStatus, Sandbox
from retool_env.sandbox.box.images import Image
from retool_env.sandbox.local import LocalSandbox
from retool_env.terminal import Parser

__all__ = ["SCIENCE", "TRIVIAL", "Program", "bare_fork", "bench", "latency", "main", "medians", "throughput"]

_YARDSTICK = """
import gc, os, statistics, sys, time
sys.path[0] = sys.argv[1]
from box import images
images.warm_up(sys.argv[2])
times = []
for _ in range(int(sys.argv[3])):
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is run, and what it must print."""

    code: str
    output: str


TRIVIAL = Program(code="print(1 + 1)", output="2\n")
SCIENCE = Program(
    code=(
        "import numpy as np, sympy as sp\nx = sp.symbols('x')\n"
        "print(sp.solve(x**2 - 5*x + 6), float(np.linalg.det(np.eye(3))))"
    ),
    output="[2, 3] 1.0\n",
)


def bare_fork(image: Image, times: int = 200) -> float:
    """F in seconds: the median fork, exit and wait of a process with the modules of ``image``."""
    folder = str(Path(__file__).parent)
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
    command = [sys.executable, "-s", "-c", _YARDSTICK, folder, image, str(times)]
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _check(sandbox: Sandbox, program: Program) -> None:
    result = sandbox.run(program.code)
    if (result.status, result.stdout) != (RunStatus.OK, program.output):
        raise RuntimeError(f"a benchmark program went wrong: {result}")


def latency(sandbox: Sandbox, program: Program, times: int = 100, pause: float = 0.0) -> float:
    """Median seconds from call to result, one at a time; ``pause`` lets spares be made in between."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        _check(sandbox, program)
        taken.append(time.perf_counter() - start)
        if pause:
            time.sleep(pause)
    return statistics.median(taken)


def throughput(sandbox: Sandbox, program: Program, concurrency: int, seconds: float = 1.5) -> float:
    """Runs per second with ``concurrency`` callers at once."""
    end = time.perf_counter() + seconds

    def work() -> int:
        count = 0
        while time.perf_counter() < end:
            _check(sandbox, program)
            count += 1
        return count

    with ThreadPoolExecutor(concurrency) as pool:
        start = time.perf_counter()
        total = sum(future.result() for future in [pool.submit(work) for _ in range(concurrency)])
        return total / (time.perf_counter() - start)


def medians(measures: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Each measure's median over repetitions, in turns, so that a slow minute touches all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repetitions):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


def _cold(program: Program) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-c", program.code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def bench(*, tier: str | None = None, repetitions: int = 5, images: Sequence[Image] = ("science", "light")) -> None:
    """Measure and print a table for each image."""
    console = Console()
    cores = len(os.sched_getaffinity(0))
    for image in images:
        with (
            LocalSandbox(image=image, tier=tier, spares=0) as plain,
            LocalSandbox(image=image, tier=tier) as ready,
            LocalSandbox(image=image, tier="T3", unsafe=True, spares=0) as unsafe,
        ):
            isolation = plain.run(TRIVIAL.code).tier
            measures: dict[str, Callable[[], float]] = {
                "F": partial(bare_fork, image),
                "one at a time": partial(latency, plain, TRIVIAL),
                "with ready spares": partial(latency, ready, TRIVIAL, pause=0.02),
                "without isolation": partial(latency, unsafe, TRIVIAL),
            }
            for count in (1, cores, 4 * cores, 128):
                measures[f"{count} callers"] = partial(throughput, ready, TRIVIAL, count)
            if image == "science":
                measures["numpy and sympy"] = partial(latency, ready, SCIENCE, times=20)
                measures["numpy and sympy, cold"] = partial(_cold, SCIENCE)
            console.print(_table(image, isolation, cores, medians(measures, repetitions)))


def _table(image: str, tier: str, cores: int, found: dict[str, float]) -> Table:
    table = Table(title=f"{image} image, tier {tier}, {cores} processors", title_justify="left")
    for column in ("what", "figure", "in F"):
        table.add_column(column, justify="left" if column == "what" else "right")
    fork = found["F"]
    for name, value in found.items():
        if name.endswith("callers"):
            table.add_row(name, f"{value:.0f} runs/s", f"{value * fork / cores:.2f} x cores/F")
        else:
            table.add_row(name, f"{1000 * value:.2f} ms", f"{value / fork:.2f}")
    if image == "science":
        warm = found["numpy and sympy, cold"] / found["numpy and sympy"]
        table.add_row("numpy and sympy, against cold", f"{warm:.1f}x", "")
    table.add_row("isolation costs", f"{1000 * (found['one at a time'] - found['without isolation']):.2f} ms", "")
    return table


_EXAMPLES: Final = """\
examples:
  retool sandbox bench
      all figures, with numpy and sympy loaded and without; some minutes on an idle machine
  retool sandbox bench --image light --repetitions 1
      a quick look
"""


def main(arguments: list[str]) -> int:
    """``retool sandbox bench``."""
    parser = Parser(
        prog="retool sandbox bench",
        description=(
            "measure the local sandbox; F is a bare fork, exit and wait of a process with the same modules, and "
            "multiples of F are what to compare between machines"
        ),
        epilog=_EXAMPLES,
    )
    parser.add_argument("--tier", help="T1, T1' or T2; the best that this host allows when not given")
    parser.add_argument("--repetitions", type=int, default=5, help="each figure is the median of so many (default 5)")
    parser.add_argument("--image", choices=("science", "light"), action="append", help="default: both")
    options = parser.parse_args(arguments)
    bench(tier=options.tier, repetitions=options.repetitions, images=options.image or ("science", "light"))
    return 0
