"""``python -m tests.hostile``: the corpus against a sandbox, as a table. Exit code 1 if something is not contained."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from retool_env.errors import UsageError
from tests.hostile.backends import open_backend
from tests.hostile.corpus import pick
from tests.hostile.exceptions import known
from tests.hostile.judge import Judge, Verdict
from tests.hostile.model import Hostile
from tests.hostile.nobody import run_as_nobody


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--backend", choices=("fork", "subprocess"), default="fork", help="subprocess contains nothing")
    parser.add_argument("--tier", help="T1, T1', T2 or T3; the best that this host allows when not given")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a program or a category; repeatable"
    )
    parser.add_argument("--nobody", action="store_true", help="as the user nobody (needs root)")
    parser.add_argument("--verbose", action="store_true", help="one line for each program as it ends")
    return parser.parse_args(argv)


def _judge_all(options: argparse.Namespace, programs: Iterable[Hostile]) -> tuple[str, list[Verdict], list[str]]:
    verdicts = []
    with Judge(lambda: open_backend(options.backend, options.tier)) as judge:
        for program in programs:
            verdict = judge.try_program(program)
            verdicts.append(verdict)
            if options.verbose:
                mark = "." if verdict.contained else "NOT CONTAINED"
                print(f"{verdict.seconds:6.2f} s  {verdict.status:13} {program.name}  {mark}", flush=True)
        return judge.tier, verdicts, judge.finish()


def _print_table(tier: str, programs: Sequence[Hostile], verdicts: Sequence[Verdict], left: Sequence[str]) -> bool:
    """Whether everything was contained but for what is declared."""
    print(f"\n{'category':14} contained  not   (tier {tier})")
    for category in dict.fromkeys(verdict.category for verdict in verdicts):
        of_it = [verdict for verdict in verdicts if verdict.category == category]
        good = sum(verdict.contained for verdict in of_it)
        print(f"{category:14} {good:9} {len(of_it) - good:4}")
    good, failures = sum(verdict.contained for verdict in verdicts), 0
    print(f"{'all':14} {good:9} {len(verdicts) - good:4}   in {sum(verdict.seconds for verdict in verdicts):.0f} s\n")
    for program, verdict in zip(programs, verdicts, strict=True):
        exception = known(tier, program)
        failures += not verdict.contained and exception is None
        for reason in verdict.reasons:
            print(f"{program.category}/{program.name}{f' (known: {exception.why})' if exception else ''}: {reason}")
    for reason in left:
        print(reason)
    return not failures and not left


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    options = _arguments(argv)
    try:
        programs = pick(options.only)
        if options.nobody:
            rest = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--nobody"]
            return run_as_nobody(["-m", "tests.hostile", *rest]).returncode
        tier, verdicts, left = _judge_all(options, programs)
        contained = _print_table(tier, programs, verdicts, left)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if contained else 1


if __name__ == "__main__":
    sys.exit(main())
