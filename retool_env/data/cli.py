"""``retool data``: look at data files, and make files that a run can use.

``check`` prints what :mod:`.check` finds; its exit code is 0 for a clean file and 1 for something that would make a
number wrong. The others write a file and say what they left out: 0 when it is written. 2 is a mistake in the command.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from retool_env.data.check import Finding, check_rows
from retool_env.data.rows import read_rows
from retool_env.sources.wording import bare_question
from retool_env.terminal import Parser, shorten

__all__ = ["main"]

_EXAMPLES = """\
examples:
  retool data check train.jsonl
      golds that cannot be graded, repeated questions, questions with different golds
  retool data check train.parquet --against aime_2024.jsonl aime_2025.jsonl
      and questions that the evaluation files have too
  retool data prepare dapo.parquet gsm8k.jsonl --out train.parquet --against aime_2024.jsonl
      one file with each question once, in one answer format, and nothing of AIME
  retool data filter train.parquet --out short.parquet --tokenizer MODEL --workers 8
      leave out prompts above 2048 tokens and responses above 4096
  retool data sft retool_sft.parquet --out cold_start.jsonl
      ReTool-SFT for `retool sft traces.path=cold_start.jsonl`
  retool data rates runs/eval --out rates.jsonl
      pass rates for problems.rates=rates.jsonl problems.band=[0.1,0.9]
"""
_MAX_CHARS = 60


def main(arguments: Sequence[str]) -> int:
    """``retool data ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    try:
        options = _parser().parse_args(list(arguments) or ["--help"])
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    code: int = options.run(options)
    return code


def _check(options: argparse.Namespace) -> int:
    columns = {"question": options.question, "gold": options.gold}
    others = [row for path in options.against for row in read_rows(path)]
    report = check_rows(read_rows(options.file, **columns, size=options.size), others)
    print(f"{options.file}: {report.num_rows} rows")
    _show("golds that cannot be graded", report.ungradable, options.show)
    _show("questions with different golds", report.conflicts, options.show)
    _show("questions that occur more than once", report.duplicates, options.show)
    if options.against:
        _show(f"questions that are also in {', '.join(map(str, options.against))}", report.overlap, options.show)
    return 0 if report.clean else 1


def _prepare(options: argparse.Namespace) -> int:
    from retool_env.data.prepare import prepare

    report = prepare(
        options.files,
        options.out,
        against=options.against,
        layout=options.layout,
        split=options.split,
        size=options.size,
    )
    return _wrote(options.out, report.lines())


def _filter(options: argparse.Namespace) -> int:
    from retool_env.data.lengths import filter_rows

    report = filter_rows(
        options.file,
        options.out,
        tokenizer=options.tokenizer,
        max_prompt_tokens=options.max_prompt_tokens,
        max_response_tokens=options.max_response_tokens,
        workers=options.workers,
        size=options.size,
    )
    lines = [
        f"rows read                      {report.num_rows}",
        f"prompts above {report.max_prompt_tokens} tokens      {len(report.long_prompts)}",
        f"responses above {report.max_response_tokens} tokens    {len(report.long_responses)}",
        f"rows written                   {report.num_kept}",
    ]
    return _wrote(options.out, lines)


def _sft(options: argparse.Namespace) -> int:
    from retool_env.data.sft import convert_file

    return _wrote(options.out, convert_file(options.file, options.out, form=options.form, size=options.size).lines())


def _rates(options: argparse.Namespace) -> int:
    from retool_env.data.measure import measure_rates

    rates = measure_rates(options.runs, options.out)
    always, never = (sum(rate.share == share for rate in rates.values()) for share in (1.0, 0.0))
    print(f"{len(rates)} problems, {always} always solved, {never} never; written to {options.out}")
    return 0


def _wrote(out: Path, lines: Sequence[str]) -> int:
    print("\n".join(lines))
    print(f"written to {out}; what was left out is listed in {out.name}.summary.json")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="retool data", description="look at data files, and prepare them", epilog=_EXAMPLES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = _Adder(commands)
    check = add("check", _check, "ungradable golds, duplicates, contradictions and overlap of a data file")
    check.add_argument("file", type=Path, metavar="FILE", help="a .jsonl, .json, .csv or .parquet file")
    check.add_argument("--against", type=Path, nargs="+", default=[], metavar="FILE", help="evaluation files")
    check.add_argument("--question", metavar="COLUMN", help="column of the question (a.b for a nested one)")
    check.add_argument("--gold", metavar="COLUMN", help="column of the gold answer")
    check.add_argument(
        "--show", type=_count, default=10, metavar="N", help="findings to list of each kind (default 10)"
    )
    prepare = add("prepare", _prepare, "one clean file of problems out of published ones")
    prepare.add_argument("files", nargs="+", metavar="FILE", help="files, or hf:owner/name")
    prepare.add_argument("--against", nargs="+", default=[], metavar="FILE", help="evaluation files to keep out")
    prepare.add_argument("--layout", metavar="NAME", help="of the files; found out by itself when not given")
    prepare.add_argument("--split", default="train", metavar="NAME", help="of data sets on the hub (default train)")
    lengths = add("filter", _filter, "leave out rows that are too long")
    lengths.add_argument("file", type=Path, metavar="FILE")
    lengths.add_argument("--tokenizer", default="bytes", metavar="DIR", help="a model folder, or bytes (the default)")
    lengths.add_argument("--max-prompt-tokens", type=_count, default=2048, metavar="N", help="default 2048")
    lengths.add_argument("--max-response-tokens", type=_count, default=4096, metavar="N", help="default 4096")
    lengths.add_argument("--workers", type=_count, default=len(os.sched_getaffinity(0)), metavar="N", help="processes")
    sft = add("sft", _sft, "ReTool-SFT's raw rows for a cold start")
    sft.add_argument("file", type=Path, metavar="FILE", help="rows with two messages")
    sft.add_argument("--form", choices=["recording", "messages"], default="recording", help="default: recording")
    rates = add("rates", _rates, "pass rates of problems, from the episodes of runs")
    rates.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders or files of trajectories")
    for command in (check, prepare, lengths, sft):
        command.add_argument(
            "--max-samples", "--max_samples", "--size", dest="size", type=_count, metavar="N", help="the first N"
        )
    for command in (prepare, lengths, sft, rates):
        command.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .jsonl or .parquet file")
    return parser


class _Adder:
    """Adds a command with what runs it."""

    def __init__(self, commands: argparse._SubParsersAction[Parser]) -> None:
        self._commands = commands

    def __call__(self, name: str, run: object, summary: str) -> Parser:
        parser = self._commands.add_parser(name, help=summary, description=summary, epilog=_EXAMPLES)
        parser.set_defaults(run=run)
        return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number above 0")
    return int(text)


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
