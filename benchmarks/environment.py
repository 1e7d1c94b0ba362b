"""The environment beside others: `python benchmarks/environment.py [--only NAME] [--skip-peers] [--help]`.

The same scripted episodes everywhere, without a model: answer at once, or run a one-line program first and then answer.
Each player (``benchmarks/peers``) is a process of its own, in an environment that this script makes under ``--cache``
at the first time; they are measured in turns, so that a slow minute of the machine touches all of them, and compared
within a turn. CPU time is what counts: user and system, child processes included. Every framework grades with its own
verifier. Gymnasium is the floor and no competitor: its tool is ``exec`` in the same process.

At the end come the bars, and 1 as the exit code when one is missed.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from players import OURS, Turn, as_json, compete, options_of, show, told

from retool_env.sandbox import LocalSandbox, RunStatus

PEERS = {
    "gymnasium": ["gymnasium==1.4.0"],
    "gem": ["gem-llm==0.1.0", "datasets", "pylatexenc"],  # the two that it needs and does not declare
    "verifiers": ["verifiers==0.1.14"],
}
FLOOR = "gymnasium"
SESSIONS = 64
CELLS = [
    "import numpy as np, sympy as sp\nx = sp.symbols('x')",
    "roots = sp.solve(x**2 - 5*x + 6)\nroots",
    "matrix = np.eye(8) * int(roots[0])\nfloat(np.linalg.det(matrix))",
    "sp.integrate(sp.sin(x)**2, (x, 0, sp.pi))",
    "print(roots, int(matrix.sum()))",
]
LAST_OUTPUT = "[2, 3] 16\n"


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
    names = {name for name, _ in turns[0]} - {OURS, FLOOR}
    times = {
        name: statistics.median(with_tool(turn, name) / turn[OURS, "tool"].cpu_ms for turn in turns) for name in names
    }
    best = min(times, key=lambda name: times[name], default="")
    return best, times.get(best, 0.0)


def with_tool(turn: Turn, name: str) -> float:
    """CPU milliseconds for each step of its episodes with a tool, in the way of playing that costs it least."""
    return min(measure.cpu_ms for (who, what), measure in turn.items() if who == name and what.startswith("tool"))


def verdicts(turns: Sequence[Turn], statuses: Sequence[RunStatus]) -> list[tuple[str, str, bool]]:
    """Each bar: what, figure with the bar, whether it is met."""
    ours = [{what: measure.cpu_ms for (who, what), measure in turn.items() if who == OURS} for turn in turns]
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


def main() -> int:
    options = options_of(__doc__, PEERS, seconds=2.0)
    turns = compete(options, PEERS, "play")
    statuses, seconds = sessions()
    show(turns, "step")
    print(f"{SESSIONS} sessions of {len(CELLS)} cells with numpy and sympy: {seconds:.1f} s")
    rows = verdicts(turns, statuses)
    if not best_peer(turns)[0]:
        print("not measured: how many times our CPU time the best peer spends")
    if options.json is not None:
        options.json.write_text(as_json(turns, rows))
    return told(rows)


if __name__ == "__main__":
    sys.exit(main())
