"""Processes that are measured beside each other, each in an environment of its own: what the benchmarks of peers share.

A player is a script of ``benchmarks/peers`` that waits for orders (``peers/driver.py``). Peers are installed under a
cache folder at the first time. Players are measured in turns, so that a slow minute of the machine touches all of them,
and compared within a turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

PLAYERS = Path(__file__).parent / "peers"
OURS = "retool"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retool-benchmarks"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One case of one player in one turn: CPU milliseconds for each step, and steps in a second of wall time."""

    cpu_ms: float
    rate: float


Turn = dict[tuple[str, str], Measure]
"""Everything measured in one turn, by player and case."""


class Player:
    """A running script that waits for orders.

    Args:
        peer: it is someone else's, and inherits no settings for Python and no one's login shell.
        folder: its working directory, and a peer's home.
    """

    def __init__(self, name: str, script: Path, python: Path, folder: Path, *, peer: bool) -> None:
        self.name = name
        environment = {key: value for key, value in os.environ.items() if not (peer and key.startswith("PYTHON"))}
        # Its own interpreter must be the one that a tool finds as `python`, not a launcher that costs more.
        environment |= {"PATH": f"{python.parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        if peer:
            environment["HOME"] = str(folder)
            (folder / ".bash_profile").write_text(f'PATH="{python.parent}:$PATH"\n')
        self._log = folder / f"{name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, script],
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


def install(name: str, requirements: Sequence[str], cache: Path) -> Path:
    """The interpreter of the peer's environment, which is made when it is not there."""
    folder = cache / name
    python = folder / "bin" / "python"
    wanted = " ".join(requirements)
    done = folder / "installed.txt"
    if done.is_file() and done.read_text() == wanted:
        return python
    print(f"installing {wanted} into {folder} (once; some minutes)", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *requirements], check=False).returncode != 0:
        raise SystemExit(f"{name} cannot be installed; --help tells how to leave it out")
    done.write_text(wanted)
    return python


def options_of(doc: str, peers: Mapping[str, Sequence[str]], seconds: float) -> argparse.Namespace:
    """What the command line says: which peers, how often, how long."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where peers are installed")
    parser.add_argument("--only", choices=peers, help="this one beside ours, and no other")
    parser.add_argument("--skip-peers", action="store_true", help="ours alone; nothing is installed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each measurement, at least")
    parser.add_argument("--json", type=Path, help="write every turn here")
    return parser.parse_args()


def compete(options: argparse.Namespace, peers: Mapping[str, Sequence[str]], act: str) -> list[Turn]:
    """Measure the chosen peers and ours with the scripts ``peers/ACT_NAME.py``, which are installed at need."""
    names = [] if options.skip_peers else [options.only] if options.only else list(peers)
    pythons = {name: install(name, peers[name], options.cache.absolute()) for name in names}
    pythons[OURS] = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        players = []
        for name, python in pythons.items():
            (home := Path(folder) / name).mkdir()  # peers leave files in the working directory
            players.append(Player(name, PLAYERS / f"{act}_{name}.py", python, home, peer=name in peers))
        turns = _take_turns(players, options.repetitions, options.seconds)
        for player in players:
            player.close()
    return turns


def _take_turns(players: Sequence[Player], repetitions: int, seconds: float) -> list[Turn]:
    """Every case of every player, in each of so many turns."""
    turns: list[Turn] = []
    for number in range(repetitions):
        turn: Turn = {}
        for player in players:
            print(f"turn {number + 1} of {repetitions}: {player.name}", flush=True)
            turn |= {(player.name, case): player.measure(case, seconds) for case in player.cases}
        turns.append(turn)
    return turns


def show(turns: Sequence[Turn], unit: str) -> None:
    """Medians over the turns, for each ``unit`` (step, sample)."""
    cores = len(os.sched_getaffinity(0))
    table = Table(title=f"medians of {len(turns)}, {cores} processors, load {os.getloadavg()[0]:.1f}")
    for column in ("who", "what", f"CPU ms per {unit}", f"{unit}s/s"):
        table.add_column(column, justify="left" if column.startswith("wh") else "right")
    for key in turns[0]:
        cpu_ms = statistics.median(turn[key].cpu_ms for turn in turns)
        rate = statistics.median(turn[key].rate for turn in turns)
        table.add_row(*key, f"{cpu_ms:.3f}" if cpu_ms < 1 else f"{cpu_ms:.2f}", f"{rate:,.0f}")
    Console().print(table)


def told(rows: Sequence[tuple[str, str, bool]]) -> int:
    """Print each bar (what, figure, whether it is met); 1 when one is missed."""
    for what, figure, met in rows:
        print(f"{'met ' if met else 'MISSED'}  {what}: {figure}")
    return 0 if all(met for _, _, met in rows) else 1


def as_json(turns: Sequence[Turn], bars: Sequence[tuple[str, str, bool]]) -> str:
    """Every turn, and the bars."""
    rows = [{f"{who}, {what}": vars(measure) for (who, what), measure in turn.items()} for turn in turns]
    return json.dumps({"turns": rows, "bars": bars}, indent=2)


def median_of(turns: Sequence[Turn], one: tuple[str, str], other: tuple[str, str]) -> float:
    """How many times the CPU time of ``other`` that of ``one`` is, compared within each turn."""
    return statistics.median(turn[one].cpu_ms / turn[other].cpu_ms for turn in turns)
