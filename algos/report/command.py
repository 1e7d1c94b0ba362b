"""``retool report DIR...``: what sweeps, or evaluations, came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agents.console import make_console
from algos.report.plot import plot
from algos.report.pool import pool, read_sweeps
from algos.report.tables import as_json, markdown, notes, terminal, unfinished
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.sweeps import is_sweep
from retool_env.terminal import Parser

__all__ = ["main", "report_sweeps"]

_EXAMPLES = """\
examples:
  retool report runs/sweep
      the cells of a sweep, pooled over seeds; also report.md, report.json and report.svg in that folder
  retool report multirun/2026-01-31/12-00-00 runs/sweep --out runs/both
      several sweeps in one table
  retool report runs/eval-base runs/eval-grpo
      evaluations
"""


def main(arguments: Sequence[str]) -> int:
    """``retool report ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    parser = Parser(prog="retool report", description="what sweeps or evaluations came to", epilog=_EXAMPLES)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="folders of sweeps, or of evaluations")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where a sweep's files go (default: the first DIR)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    if not any(is_sweep(folder) for folder in options.folders):
        print(_evaluations(options.folders))
        return 0
    report_sweeps(options.folders, out=options.out or options.folders[0], as_data=options.json)
    return 0


def report_sweeps(folders: Sequence[Path], *, out: Path, as_data: bool = False) -> None:
    """Print what the sweeps came to, and write ``report.md``, ``report.json`` and ``report.svg`` into ``out``.

    Args:
        as_data: print the JSON rather than the table.

    Raises:
        UsageError: a folder holds no sweep, or ``out`` cannot be written to.
    """
    cells = read_sweeps(folders)
    rows = pool(cells)
    data = json.dumps(as_json(rows, cells), indent=1, ensure_ascii=False) + "\n"
    title = ", ".join(str(folder) for folder in folders)
    page = markdown(rows, cells, title=title, plot="report.svg")
    for name, text in {"report.json": data, "report.md": page, "report.svg": plot(rows)}.items():
        with atomic(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if as_data:
        print(data, end="")
        return
    console = make_console()
    console.print(terminal(rows))
    for line in notes(rows):
        console.print(line, markup=False)
    for line in unfinished(cells):
        console.print(f"not finished: {line}", markup=False)
    console.print(f"written: {out / 'report.md'}, {out / 'report.json'}, {out / 'report.svg'}", markup=False)


def _evaluations(folders: Sequence[Path]) -> str:
    """The report of evaluations, which agents can make without us."""
    from agents.evaluation.report import is_evaluation, report_evaluations

    if not all(is_evaluation(folder) for folder in folders):
        named = ", ".join(repr(str(folder)) for folder in folders)
        raise UsageError(f"{named}: no folder of a sweep or of evaluations; give the one that the command printed")
    return report_evaluations(folders)
