"""``retool rescore RUN``: grade the answers of a stored run again, with several verifiers side by side.

Purpose: see how much of an accuracy is the verifier's doing, and read every answer about which verifiers disagree.
Contract: reads a run folder (or any trajectory file) and changes nothing. Graded is what the environment graded: the
text of the last turn of an episode that neither a budget nor infrastructure ended. The accuracy is that of an
evaluation (:mod:`agents.stats`): a mean over problems, in which what a budget ended is wrong, whoever grades, and what
infrastructure ended does not count. Exit code 0, also when verifiers disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from agents.console import make_console
from agents.evaluation.played import read_episodes
from agents.stats import Sample, run_file, summarise_samples
from retool_env.terminal import Parser, shorten
from retool_env.trajectory import Trajectory
from retool_env.verifier import Verdict, close, verify_batch
from retool_env.verifier.others import VERIFIERS, load_verifier

__all__ = ["Graded", "main", "rescore"]

_EXAMPLES = """\
examples:
  retool rescore runs/eval
      with every verifier there is
  retool rescore runs/eval --verifier retool --verifier boxed_exact
      with ours as it is today, and with verl's strict box
"""
_MAX_CHARS = 40
STORED = "stored"


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One episode with its verdicts: the stored one, and one by each verifier."""

    episode: Trajectory
    verdicts: Mapping[str, Verdict]

    @property
    def disputed(self) -> bool:
        return len({verdict.correct for verdict in self.verdicts.values()}) > 1


def main(arguments: Sequence[str]) -> int:
    """``retool rescore ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    try:
        options = _parser().parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    names = list(dict.fromkeys(options.verifier or VERIFIERS))
    for name in names:
        load_verifier(name)
    trajectories = list(read_episodes(options.run))
    graded = rescore(trajectories, names)
    close()
    console = make_console()
    console.print(f"{run_file(options.run)}: {len(graded)} of {len(trajectories)} episodes were graded")
    if graded:
        console.print(_summary(trajectories, graded, names))
        _print_disagreements(graded, options.show)
    return 0


def rescore(trajectories: Sequence[Trajectory], names: Sequence[str]) -> list[Graded]:
    """The verdicts on every graded episode, in order.

    Raises:
        UsageError: a verifier that does not exist.
    """
    verifiers = {name: load_verifier(name) for name in names}
    episodes = [t for t in trajectories if t.record.verdict is not None and t.record.outcome.terminated]
    texts = [t.record.turns[-1] for t in episodes]
    golds = [t.record.problem.answer for t in episodes]
    columns = {name: verify_batch(texts, golds, verifier=verifier) for name, verifier in verifiers.items()}
    columns = {STORED: [t.record.verdict for t in episodes if t.record.verdict is not None], **columns}
    return [
        Graded(episode=episode, verdicts={name: rows[index] for name, rows in columns.items()})
        for index, episode in enumerate(episodes)
    ]


def _parser() -> Parser:
    summary = "grade the answers of a stored run again, with several verifiers side by side"
    parser = Parser(prog="retool rescore", description=summary, epilog=_EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a file of trajectories")
    parser.add_argument("--verifier", action="append", metavar="NAME", help=f"{', '.join(VERIFIERS)}; may be repeated")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="disagreements to list (default 20)")
    return parser


def _summary(trajectories: Sequence[Trajectory], graded: Sequence[Graded], names: Sequence[str]) -> Table:
    table = Table("verifier", "right", "accuracy", "right, stored wrong", "wrong, stored right")
    for name in (STORED, *names):
        pairs = [(row.verdicts[name].correct, row.verdicts[STORED].correct) for row in graded]
        right, gained, lost = sum(new for new, _ in pairs), pairs.count((True, False)), pairs.count((False, True))
        table.add_row(name, str(right), f"{_accuracy(trajectories, graded, name):.1%}", str(gained), str(lost))
    return table


def _accuracy(trajectories: Sequence[Trajectory], graded: Sequence[Graded], name: str) -> float:
    right = {id(row.episode): row.verdicts[name].correct for row in graded}
    samples = [replace(Sample.of(t), correct=right.get(id(t), False)) for t in trajectories]
    return summarise_samples(samples)[0].accuracy.mean


def _print_disagreements(graded: Sequence[Graded], limit: int) -> None:
    console = make_console()
    found = [row for row in graded if row.disputed]
    console.print(f"disagreements: {len(found) or 'none'}", markup=False)
    for row in found[:limit]:
        record = row.episode.record
        said = ", ".join(f"{name} {'right' if v.correct else 'wrong'} ({v.reason})" for name, v in row.verdicts.items())
        answer, gold = (shorten(text, _MAX_CHARS) for text in (row.verdicts[STORED].answer, record.problem.answer))
        line = f"  {row.episode.ticket} {record.problem.id}: answer {answer!r}, gold {gold!r}: {said}"
        console.print(line, markup=False)
    if len(found) > limit:
        console.print(f"  ... {len(found) - limit} more; --show {len(found)} lists them all", markup=False)
