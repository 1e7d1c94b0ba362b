"""``retool view RUN``: write the page of a run, or of two runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.console import make_console
from agents.viewer.page import write_view
from agents.viewer.runs import ViewedRun, open_run
from retool_env.terminal import Parser

__all__ = ["main"]

_EXAMPLES = """\
examples:
  retool view runs/eval
      writes runs/eval/view.html; open it in any browser
  retool view runs/grpo/eval/sampled.jsonl --out sampled.html
      one file of trajectories
  retool view runs/eval-base --diff runs/eval-grpo --out diff.html
      both runs in one page, problem by problem
"""


def main(arguments: Sequence[str]) -> int:
    """``retool view ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    parser = Parser(
        prog="retool view",
        description="write a run as one HTML file to look at: episodes, tokens, groups, curves",
        epilog=_EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a file of trajectories")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: view.html in or beside RUN")
    parser.add_argument("--diff", type=Path, metavar="OTHER", help="a second run, shown against the first")
    parser.add_argument("--tokenizer", metavar="DIR", help="default: the one that the run's configuration names")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    runs = [open_run(path, options.tokenizer) for path in (options.run, options.diff) if path is not None]
    out = options.out or _default_out(options.run)
    num = write_view(out, runs)
    console = make_console()
    console.print(f"{out}: {num} episodes, {out.stat().st_size / 2**20:.1f} MiB", markup=False)
    for run in runs:
        if note := _tokenizer_note(run):
            console.print(note, markup=False)
    return 0


def _default_out(run: Path) -> Path:
    return run / "view.html" if run.is_dir() else run.with_name("view.html")


def _tokenizer_note(run: ViewedRun) -> str:
    return "" if run.tokenizer else f"{run.file}: tokens are shown by their ids ({run.why_no_tokenizer})"
