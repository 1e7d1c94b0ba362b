"""``retool data``: look at data files.

``check`` prints what :mod:`.check` finds. Exit code 0: clean; 1: something that would make a number wrong; 2: a mistake
in the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retool_env.data.check import Finding, bare_question, check_rows
from retool_env.data.rows import read_rows
from retool_env.terminal import Parser, shorten

__all__ = ["main"]

_EXAMPLES = """\
examples:
  retool data check train.jsonl
      golds that cannot be graded, repeated questions, questions with different golds
  retool data check train.parquet --against aime_2024.jsonl aime_2025.jsonl
      and questions that the evaluation files have too
"""
_MAX_CHARS = 60


def main(arguments: Sequence[str]) -> int:
    """``retool data ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    try:
        options = _parser().parse_args(list(arguments) or ["--help"])
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    columns = {"question": options.question, "gold": options.gold}
    others = [row for path in options.against for row in read_rows(path)]
    report = check_rows(read_rows(options.file, **columns), others)
    print(f"{options.file}: {report.num_rows} rows")
    _show("golds that cannot be graded", report.ungradable, options.show)
    _show("questions with different golds", report.conflicts, options.show)
    _show("questions that occur more than once", report.duplicates, options.show)
    if options.against:
        _show(f"questions that are also in {', '.join(map(str, options.against))}", report.overlap, options.show)
    return 0 if report.clean else 1


def _parser() -> Parser:
    parser = Parser(prog="retool data", description="look at data files")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    summary = "ungradable golds, duplicates, contradictions and overlap of a data file"
    check = commands.add_parser("check", help=summary, description=summary, epilog=_EXAMPLES)
    check.add_argument("file", type=Path, metavar="FILE", help="a .jsonl or .parquet file")
    check.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="evaluation files")
    check.add_argument("--question", metavar="COLUMN", help="column of the question (a.b for a nested one)")
    check.add_argument("--gold", metavar="COLUMN", help="column of the gold answer")
    check.add_argument("--show", type=int, default=10, metavar="N", help="findings to list of each kind (default 10)")
    return parser


def _show(title: str, findings: Sequence[Finding], limit: int) -> None:
    print(f"\n{title}: {len(findings) or 'none'}")
    for finding in findings[:limit]:
        places = ", ".join(row.where for row in finding.rows[:4])
        more = f" and {len(finding.rows) - 4} more" if len(finding.rows) > 4 else ""
        golds = " / ".join(dict.fromkeys(" | ".join(row.golds) for row in finding.rows))
        gold, question = (shorten(text, _MAX_CHARS) for text in (golds, bare_question(finding.rows[0].question)))
        print(f"  {places}{more}: {finding.fault}; gold {gold!r}; {question!r}")
    if len(findings) > limit:
        print(f"  ... {len(findings) - limit} more; --show {len(findings)} lists them all")
