"""The harness beside others: `python benchmarks/harness.py [--only NAME] [--skip-peers] [--help]`.

A model that answers at once, so that what is measured is everything around it: from the task to the stored log and the
numbers. Two episodes: an answer alone; and a one-line program, its output, and then the answer. inspect-ai plays both,
lm-eval has no tools and plays the first. Evaluations of 128 samples, 16 in flight, each into a new folder.

Each player (``benchmarks/peers/eval_*.py``) is a process of its own, in an environment that this script makes under
``--cache`` at the first time. CPU time is what counts: user and system, child processes included. Every framework
grades with a verifier of its own. Our programs run in our sandbox; inspect-ai's in a login shell, without isolation.

At the end come the bars, and 1 as the exit code when one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from players import CACHE, PLAYERS, Player, Turn, as_json, install, median_of, show, take_turns, told

PEERS = {"inspect": ["inspect-ai==0.3.285"], "lm_eval": ["lm-eval==0.4.13"]}
OURS = "retool"
TIMES = 5.0
RECIPE = 960
"""Samples of the recipe's evaluation, over which the start of the sandbox is spread."""


def verdicts(turns: Sequence[Turn]) -> list[tuple[str, str, bool]]:
    """Each bar: what, figure with the bar, whether it is met."""
    measured = {who for who, _ in turns[0]}
    rows = []
    if "inspect" in measured:
        ours = [turn[OURS, "tool"].cpu_ms + turn[OURS, "sandbox start"].cpu_ms / RECIPE for turn in turns]
        pairs = zip(turns, ours, strict=True)
        times = statistics.median(turn["inspect", "tool"].cpu_ms / spent for turn, spent in pairs)
        figure = f"{times:.1f} x our CPU time, our sandbox's start included (at least {TIMES:g})"
        rows.append(("inspect-ai, the episode with a tool", figure, times >= TIMES))
    return rows


def remarks(turns: Sequence[Turn]) -> list[str]:
    """What is of interest, and has no bar."""
    measured = {who for who, _ in turns[0]}
    peers = [name for name in PEERS if name in measured]
    lines = [f"{n}, answer alone: {median_of(turns, (n, 'answer'), (OURS, 'answer')):.1f} x ours" for n in peers]
    own = statistics.median(turn[OURS, "tool"].cpu_ms - turn[OURS, "sandbox call"].cpu_ms for turn in turns)
    start = statistics.median(turn[OURS, "sandbox start"].cpu_ms for turn in turns)
    shared = f"{start:,.0f} ms CPU once, {start / RECIPE:.2f} for each of the recipe's {RECIPE} samples"
    return [*lines, f"ours beside the sandbox call, with a tool: {own:.2f} ms CPU", f"start of our sandbox: {shared}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where peers are installed")
    parser.add_argument("--only", choices=PEERS, help="this one beside ours, and no other")
    parser.add_argument("--skip-peers", action="store_true", help="ours alone; nothing is installed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement, at least")
    parser.add_argument("--json", type=Path, help="write every turn here")
    options = parser.parse_args()
    names = [] if options.skip_peers else [options.only] if options.only else list(PEERS)
    pythons = {name: install(name, PEERS[name], options.cache.absolute()) for name in names}
    pythons[OURS] = Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        players = []
        for name, python in pythons.items():
            (home := Path(folder) / name).mkdir()
            players.append(Player(name, PLAYERS / f"eval_{name}.py", python, home, peer=name in PEERS))
        turns = take_turns(players, options.repetitions, options.seconds)
        for player in players:
            player.close()
    show(turns, "sample")
    print("\n".join(remarks(turns)))
    rows = verdicts(turns)
    if not rows:
        print("not measured: how many times our CPU time inspect-ai spends")
    if options.json is not None:
        options.json.write_text(as_json(turns, rows))
    return told(rows)


if __name__ == "__main__":
    sys.exit(main())
