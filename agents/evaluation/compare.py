"""``retool compare A B``: is run B better than run A, problem by problem?

Contract: reads two run folders (or trajectory files) over the same problems and changes nothing. Exit code 0 whatever
the answer; 2 when the problems differ, or the verifiers of two evaluations do, unless ``--regrade`` grades both anew.
Other differences in what two evaluations were measured with (prompt, tools, budgets, sampling) are said in a warning:
they may be what is to be compared.
A run that is not over yet is compared by the problems that both have come to, and how many are missing is said.
What is left out: correcting for many comparisons, and runs over problems that merely overlap.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from agents.console import make_console
from agents.evaluation.folder import is_evaluation, read_run
from agents.evaluation.identity import MEASURE, differences
from agents.evaluation.played import read_episodes
from agents.evaluation.rescore import rescore
from agents.stats import Paired, ProblemPair, Sample, latest, pair_runs
from retool_env.errors import UsageError
from retool_env.terminal import Parser, shorten

__all__ = ["compare_runs", "main", "read_samples"]

_EXAMPLES = """\
examples:
  retool compare runs/eval-base runs/eval-grpo
      mean difference with its interval, sign test, and the problems that flipped
  retool compare runs/eval-base runs/eval-grpo --json
      the same and every problem, for a program
  retool compare runs/eval-old runs/eval-new --regrade
      with the answers of both graded by the verifier of today
"""
_MAX_CHARS = 70
VERIFIER: Final = "retool"
GRADED_BY: Final = ("verifier",)


def main(arguments: Sequence[str]) -> int:
    """``retool compare ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    parser = Parser(
        prog="retool compare",
        description="compare two runs over the same problems, paired by problem",
        epilog=_EXAMPLES,
    )
    parser.add_argument("first", type=Path, metavar="A", help="a run folder, or a file of trajectories")
    parser.add_argument("second", type=Path, metavar="B", help="another; differences are B minus A")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="flipped problems to list (default 20)")
    parser.add_argument("--regrade", action="store_true", help="grade both anew, with the verifier of today")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    found = compare_runs(options.first, options.second, regrade=options.regrade)
    for difference in measured_differently(options.first, options.second):
        print(f"warning: measured differently, {difference}", file=sys.stderr)
    if options.json:
        print(json.dumps(_as_json(found), indent=1))
    else:
        _print(make_console(), found, options.show)
    return 0


def compare_runs(first: Path, second: Path, *, regrade: bool = False) -> Paired:
    """The comparison of two stored runs.

    Args:
        regrade: grade the answers of both with the verifier of today.

    Raises:
        UsageError: a file is missing or broken, or the runs are over different problems, or, without ``regrade``, were
            graded by different verifiers.
    """
    samples = (read_samples(run, regrade=regrade) for run in (first, second))
    paired = pair_runs(*samples, num_problems=_num_problems(first, second))
    if any(found.startswith("problems.digest") for found in _differences(first, second, ["problems"])):
        raise UsageError(
            "the problems have the same ids and golds, and other questions; evaluate both on one data file"
        )
    if not regrade and (found := _differences(first, second, GRADED_BY)):
        raise UsageError(
            f"the runs were not graded alike ({'; '.join(found)}); --regrade grades both with the verifier of today"
        )
    return paired


def read_samples(run: Path, *, regrade: bool = False) -> list[Sample]:
    """The samples of a run folder or a trajectory file, one for each ticket.

    Args:
        regrade: with the verdicts of the verifier of today.

    Raises:
        UsageError: the file is missing or broken.
    """
    trajectories = read_episodes(run)
    if not regrade:
        return latest(Sample.of(trajectory) for trajectory in trajectories)
    kept = list(trajectories)
    right = {row.episode.ticket: row.verdicts[VERIFIER] for row in rescore(kept, [VERIFIER])}
    records = [replace(t.record, verdict=right.get(t.ticket, t.record.verdict)) for t in kept]
    return latest(Sample.of(replace(t, record=record)) for t, record in zip(kept, records, strict=True))


def measured_differently(first: Path, second: Path) -> list[str]:
    """What two evaluations were not measured alike with, verifiers apart; empty where one of them is none."""
    return _differences(first, second, [part for part in MEASURE if part not in GRADED_BY])


def _differences(first: Path, second: Path, parts: Sequence[str]) -> list[str]:
    if not (is_evaluation(first) and is_evaluation(second)):
        return []
    one, two = read_run(first).identity, read_run(second).identity
    return differences(one, two, parts, form="{key}: {one} in A, {two} in B")


def _num_problems(first: Path, second: Path) -> int | None:
    """Of the data set that both evaluations are of, as far as their records say so."""
    if not (is_evaluation(first) and is_evaluation(second)):
        return None
    one, two = (read_run(run).identity.problems for run in (first, second))
    same = one["digest"] == two["digest"] and one["size"] == two["size"]
    return one["size"] if same and isinstance(one["size"], int) else None


def _as_json(found: Paired) -> dict[str, object]:
    values = asdict(found)
    values["interval"] = list(found.interval)
    values["pairs"] = [{**asdict(p), "difference": p.difference, "flipped": p.flipped} for p in found.pairs]
    return {"difference": found.difference, **values}


def _print(console: Console, found: Paired, limit: int) -> None:
    table = Table("problems", "A", "B", "B minus A [95 %]", "better", "worse", "equal", "sign test p")
    low, high = found.interval
    table.add_row(
        str(len(found.pairs)),
        f"{100 * found.first:.1f}%",
        f"{100 * found.second:.1f}%",
        f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        str(found.num_better),
        str(found.num_worse),
        str(len(found.pairs) - found.num_better - found.num_worse),
        f"{found.sign_p:.3f}" if found.sign_p >= 0.001 else "< 0.001",
    )
    console.print(table)
    console.print(_means(found))
    if counts := found.counts:
        console.print(
            f"right in both {counts.both}, only in A {counts.only_first}, only in B {counts.only_second}, "
            f"in neither {counts.neither}"
        )
    if found.left_out:
        named = shorten(", ".join(found.left_out), _MAX_CHARS)
        console.print(f"left out, no scored sample in one of the runs: {len(found.left_out)} ({named})", markup=False)
    if any(found.unplayed):
        a, b = found.unplayed
        console.print(f"not played yet, and left out: {a} problems in A, {b} in B")
    _print_flipped(console, found.pairs, limit)


def _means(found: Paired) -> Table:
    table = Table("mean of an episode", "A", "B", "B minus A [95 %]")
    for row in found.means:
        table.add_row(row.name, f"{row.first:.3f}", f"{row.second:.3f}", str(row))
    return table


def _print_flipped(console: Console, pairs: Sequence[ProblemPair], limit: int) -> None:
    flipped = sorted((pair for pair in pairs if pair.flipped), key=lambda pair: -abs(pair.difference))
    console.print(f"flipped (mostly right in one run only): {len(flipped) or 'none'}")
    for pair in flipped[:limit]:
        a, b = (f"{round(m * n)}/{n}" for m, n in ((pair.first, pair.num_first), (pair.second, pair.num_second)))
        console.print(f"  {a} -> {b}  {shorten(pair.problem, _MAX_CHARS)}", markup=False)
    if len(flipped) > limit:
        console.print(f"  ... {len(flipped) - limit} more; --show {len(flipped)} lists them all")
