"""The environment beside others: `python benchmarks/environment.py [--only NAME] [--skip-peers] [--help]`.

The same scripted episodes everywhere, without a model: answer at once, or run a one-line program first and then answer.
Each player (``benchmarks/peers``) is a process of its own, in an environment that this script makes under ``--cache``
at the first time; they are measured in turns, so that a slow minute of the machine touches all of them, and compared
within a turn. CPU time is what counts: user and system, child processes included. Every framework grades with its own
verifier. Gymnasium is the floor and no competitor: its tool is ``exec`` in the same process.

At the end come the bars, and 1 as the exit code when one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from retool_env.sandbox import LocalSandbox, RunStatus

PEERS = {
    "gymnasium": ["gymnasium==1.4.0"],
    "gem": ["gem-llm==0.1.0", "datasets", "pylatexenc"],  # the two that it needs and does not declare
    "verifiers": ["verifiers==0.1.14"],
}
FLOOR = "gymnasium"
PLAYERS = Path(__file__).parent / "peers"
SESSIONS = 64
CELLS = [
    "import numpy as np, sympy as sp\nx = sp.symbols('x')",
    "roots = sp.solve(x**2 - 5*x + 6)\nroots",
    "matrix = np.eye(8) * int(roots[0])\nfloat(np.linalg.det(matrix))",
    "sp.integrate(sp.sin(x)**2, (x, 0, sp.pi))",
    "print(roots, int(matrix.sum()))",
]
LAST_OUTPUT = "[2, 3] 16\n"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One case of one player in one turn: CPU milliseconds for each step, and steps in a second of wall time."""

    cpu_ms: float
    rate: float


Turn = dict[tuple[str, str], Measure]
"""Everything measured in one turn, by player and case."""


class Player:
    """A running ``play_NAME.py`` that waits for orders; ``folder`` is its working directory."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        self.name = name
        peer = name in PEERS
        environment = {key: value for key, value in os.environ.items() if not (peer and key.startswith("PYTHON"))}
        # Its own interpreter must be the one that a tool finds as `python`, not a launcher that costs more.
        environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        self._log = folder / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, PLAYERS / f"play_{name}.py"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment,
                text=True,
            )
        self.cases: list[str] = json.loads(self._read())

    def measure(self, case: str, seconds: float) -> Measure:
        assert self._process.stdin is not None
        print(json.dumps([case, seconds]), file=self._process.stdin, flush=True)
        found = json.loads(self._read())
        return Measure(cpu_ms=1000 * found["cpu"] / found["steps"], rate=found["steps"] / found["wall"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise SystemExit(f"{self.name} failed:\n{self._log.read_text()[-2000:]}")


def install(name: str, cache: Path, packages: Sequence[str]) -> Path:
    """The interpreter of the peer's environment, which is made when it is not there."""
    folder = cache / name
    python = folder / "bin" / "python"
    wanted = " ".join(packages)
    done = folder / "installed.txt"
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {wanted} into {folder} (once; some minutes)", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--quiet",
        "--disable-pip-version-check",
        *packages,
    ]
    if subprocess.run(pip, check=False).returncode != 0:
        raise SystemExit(f"{name} cannot be installed; leave the others out with --skip-peers, or it with --only")
    done.write_text(wanted)
    return python


def play(players: Sequence[Player], repetitions: int, seconds: float) -> list[Turn]:
    turns: list[Turn] = []
    for number in range(repetitions):
        turn: Turn = {}
        for player in players:
            print(f"turn {number + 1} of {repetitions}: {player.name}", flush=True)
            turn |= {(player.name, case): player.measure(case, seconds) for case in player.cases}
        turns.append(turn)
    return turns


def sessions() -> tuple[list[RunStatus], float]:
    """How the cells of many concurrent sessions ended, and the seconds it took from the first to the last."""
    ready = threading.Barrier(SESSIONS)

    def work(sandbox: LocalSandbox) -> list[RunStatus]:
        with sandbox.open_session() as session:
            ready.wait()  # all of them live at the same time
            runs = [session.run(cell) for cell in CELLS]
        assert runs[-1].status is not RunStatus.OK or runs[-1].stdout == LAST_OUTPUT, runs[-1]
        return [run.status for run in runs]

    with LocalSandbox() as sandbox, ThreadPoolExecutor(SESSIONS) as pool:
        start = time.perf_counter()
        ended = [future.result() for future in [pool.submit(work, sandbox) for _ in range(SESSIONS)]]
        return [status for statuses in ended for status in statuses], time.perf_counter() - start


def best_peer(turns: Sequence[Turn]) -> tuple[str, float]:
    """The peer that spends least on an episode with a tool, and how many times our CPU time it spends."""
    names = {name for name, _ in turns[0]} - {"retool", FLOOR}
    times = {
        name: statistics.median(with_tool(turn, name) / turn["retool", "tool"].cpu_ms for turn in turns)
        for name in names
    }
    best = min(times, key=lambda name: times[name], default="")
    return best, times.get(best, 0.0)


def with_tool(turn: Turn, name: str) -> float:
    """CPU milliseconds for each step of its episodes with a tool, in the way of playing that costs it least."""
    return min(measure.cpu_ms for (who, what), measure in turn.items() if who == name and what.startswith("tool"))


def verdicts(turns: Sequence[Turn], statuses: Sequence[RunStatus]) -> list[tuple[str, str, bool]]:
    """Each bar: what, figure with the bar, whether it is met."""
    ours = [{what: measure.cpu_ms for (who, what), measure in turn.items() if who == "retool"} for turn in turns]
    beside = statistics.median(spent["answer"] - spent["verifier alone"] for spent in ours)
    # An episode with a tool has two steps, and is held against one call: its second step and its reset are extra.
    ratio = statistics.median(2 * spent["tool"] / spent["sandbox alone"] for spent in ours)
    bad = [status for status in statuses if status is not RunStatus.OK]
    rows = [
        ("answer-only episode beside the verifier", f"{beside:.3f} ms CPU (at most 0.1)", beside <= 0.1),
        ("episode with a tool", f"{ratio:.2f} x the CPU of its sandbox call alone (at most 1.5)", ratio <= 1.5),
        (f"{SESSIONS} sessions at once", f"{len(bad)} of {len(statuses)} cells not ok (none may)", not bad),
    ]
    peer, times = best_peer(turns)
    if peer:
        rows.append((f"{peer}, the best peer, with a tool", f"{times:.1f} x our CPU time (at least 3)", times >= 3))
    return rows


def show(turns: Sequence[Turn]) -> None:
    cores = len(os.sched_getaffinity(0))
    table = Table(title=f"medians of {len(turns)}, {cores} processors, load {os.getloadavg()[0]:.1f}")
    for column in ("who", "what", "CPU ms per step", "steps/s"):
        table.add_column(column, justify="left" if column.startswith("wh") else "right")
    for key in turns[0]:
        cpu_ms = statistics.median(turn[key].cpu_ms for turn in turns)
        rate = statistics.median(turn[key].rate for turn in turns)
        table.add_row(*key, f"{cpu_ms:.3f}" if cpu_ms < 1 else f"{cpu_ms:.2f}", f"{rate:,.0f}")
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--cache", type=Path, default=caches / "retool-benchmarks", help="where peers are installed")
    parser.add_argument("--only", choices=PEERS, help="this one beside ours, and no other")
    parser.add_argument("--skip-peers", action="store_true", help="ours alone; nothing is installed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="write every turn here")
    options = parser.parse_args()
    names = [] if options.skip_peers else [options.only] if options.only else list(PEERS)
    pythons = {name: install(name, options.cache.absolute(), PEERS[name]) for name in names}
    pythons["retool"] = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        # Peers leave files in the working directory.
        players = [Player(name, python, Path(folder)) for name, python in pythons.items()]
        turns = play(players, options.repetitions, options.seconds)
        for player in players:
            player.close()
    statuses, seconds = sessions()
    show(turns)
    print(f"{SESSIONS} sessions of {len(CELLS)} cells with numpy and sympy: {seconds:.1f} s")
    rows = verdicts(turns, statuses)
    if not set(names) - {FLOOR}:
        print("not measured: how many times our CPU time the best peer spends")
    for what, figure, met in rows:
        print(f"{'met ' if met else 'MISSED'}  {what}: {figure}")
    if options.json is not None:
        table = [{f"{who}, {what}": vars(measure) for (who, what), measure in turn.items()} for turn in turns]
        options.json.write_text(json.dumps({"turns": table, "bars": rows}, indent=2))
    return 0 if all(met for _, _, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
