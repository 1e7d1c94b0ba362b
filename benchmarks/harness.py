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

import statistics
import sys
from collections.abc import Sequence

from players import OURS, Turn, as_json, compete, median_of, options_of, show, told

PEERS = {"inspect": ["inspect-ai==0.3.285"], "lm_eval": ["lm-eval==0.4.13"]}
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
    options = options_of(__doc__, PEERS, seconds=3.0)
    turns = compete(options, PEERS, "eval")
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
