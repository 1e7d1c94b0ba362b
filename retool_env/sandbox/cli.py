"""``retool sandbox``: run a program, or serve programs to others.

Sub-commands are a table of import strings, so that help is quick and each one's libraries are imported only for it.
A sub-command is a function ``(arguments) -> exit code`` that parses its own flags.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from retool_env.errors import UsageError, did_you_mean
from retool_env.sandbox.base import Limits, RunResult, RunStatus
from retool_env.sandbox.registry import open_sandbox
from retool_env.terminal import Parser

__all__ = ["COMMANDS", "main", "run"]

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "run": ("run one program and say how it ended", "retool_env.sandbox.cli:run"),
    "doctor": (
        "how strongly programs can be isolated on this host, and what to change",
        "retool_env.sandbox.doctor:main",
    ),
    "bench": ("measure the local sandbox against a bare fork", "retool_env.sandbox.bench:main"),
    "serve": ("serve programs to others over HTTP, as SandboxFusion does", "retool_env.sandbox.fusion.serve_cli:main"),
}

RUN_EXAMPLES: Final = """\
examples:
  retool sandbox run program.py
      run a file; its output is printed, and one line on standard error says how it ended
  echo '6 * 7' | retool sandbox run - --mode notebook
      prints 42: a notebook shows the value of a last expression
  retool sandbox run program.py --cpu-seconds 1 --memory-mb 256 --json
      tighter limits; the whole result as one JSON object
  retool sandbox run program.py --sandbox fusion:http://gpu-box:8080
      on a SandboxFusion server, ours or ByteDance's

exit code: 0 the program ended well, 1 it did not, 2 a mistake in the command, 3 the sandbox itself failed
"""


def main(arguments: Sequence[str]) -> int:
    """``retool sandbox ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if name not in COMMANDS:
        raise UsageError(f"unknown command 'sandbox {name}'{did_you_mean(name, COMMANDS)}")
    module, _, attribute = COMMANDS[name][1].partition(":")
    command: Callable[[list[str]], int] = getattr(importlib.import_module(module), attribute)
    try:
        return command(rest)
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)


def run(arguments: list[str]) -> int:
    """``retool sandbox run``."""
    options = _run_parser().parse_args(arguments)
    wall_seconds = options.wall_seconds
    if wall_seconds is None:
        wall_seconds = max(Limits().wall_seconds, 4 * options.cpu_seconds)
    limits = Limits(cpu_seconds=options.cpu_seconds, wall_seconds=wall_seconds, memory_mb=options.memory_mb)
    code = sys.stdin.read() if options.file == "-" else _read(options.file)
    stdin = _read(options.stdin) if options.stdin else ""
    with open_sandbox(options.sandbox) as sandbox:
        result = sandbox.run(code, mode=options.mode, limits=limits, stdin=stdin, seed=options.seed)
    _show_json(result) if options.json else _show(result)
    if result.status in (RunStatus.SANDBOX_ERROR, RunStatus.CANCELLED):
        return 3
    return 0 if result.status is RunStatus.OK else 1


def _run_parser() -> Parser:
    default = Limits()
    parser = Parser(prog="retool sandbox run", description="Run one Python program in a sandbox.", epilog=RUN_EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="the program; - reads it from standard input")
    parser.add_argument(
        "--mode", choices=("script", "notebook"), default="script", help="notebook also shows a last expression's value"
    )
    parser.add_argument(
        "--cpu-seconds",
        metavar="S",
        type=float,
        default=default.cpu_seconds,
        help="processor time (default: %(default)g)",
    )
    parser.add_argument(
        "--wall-seconds", metavar="S", type=float, help="wall-clock backstop (default: 20, or 4 x --cpu-seconds)"
    )
    parser.add_argument(
        "--memory-mb", metavar="N", type=int, default=default.memory_mb, help="MiB (default: %(default)s)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of random and numpy.random (default: 0)")
    parser.add_argument("--sandbox", metavar="NAME", default="fork", help="fork, fusion or fusion:URL (default: fork)")
    parser.add_argument("--stdin", metavar="FILE", help="what the program reads (default: nothing)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of the program's output")
    return parser


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {name!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name!r} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"
        ) from error


def _show(result: RunResult) -> None:
    sys.stdout.write(result.stdout)
    sys.stdout.flush()
    sys.stderr.write(result.stderr)
    if result.stderr and not result.stderr.endswith("\n"):
        sys.stderr.write("\n")
    how = [result.status.value]
    if result.fault:
        how.append(f"fault={result.fault}")
    if result.signal is not None:
        how.append(f"signal={result.signal}")
    elif result.exit_code is not None:
        how.append(f"exit_code={result.exit_code}")
    how += [f"cpu_seconds={result.cpu_seconds:.3f}", f"wall_seconds={result.wall_seconds:.3f}"]
    if result.truncated:
        how.append("truncated")
    if result.tier:
        how.append(f"tier={result.tier}")
    print(f"[{' '.join(how)}]", file=sys.stderr)


def _show_json(result: RunResult) -> None:
    fields = {item.name: getattr(result, item.name) for item in dataclasses.fields(result) if item.name != "files"}
    print(json.dumps(fields, ensure_ascii=False))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {summary}" for name, (summary, _) in COMMANDS.items())
    return (
        "retool sandbox: run Python programs that nobody has read, and say truthfully how they ended\n\n"
        "usage: retool sandbox COMMAND [flags]\n\n"
        f"commands:\n{rows}\n\n"
        "`retool sandbox COMMAND --help` explains every flag, with examples."
    )
