"""What is wrong with the rows of a data file.

Purpose: find, before a run, what would spoil it silently: a gold that no answer can meet pays nobody, a repeated
question counts twice, two golds for one question make one of them wrong, and a training question in an evaluation file
makes the evaluation worthless.
Contract: pure but for the verifier. Questions are compared by their letters, digits, operators and brackets, without
the instructions that common templates put around them; with those of other files more loosely
(:func:`~retool_env.sources.wording.loose_key`).
Left out: questions that are the same in other words, and whether a gold is *right*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from retool_env.data.rows import Row
from retool_env.sources.wording import loose_key, question_key
from retool_env.verifier import gold_problem, verify

__all__ = ["DataReport", "Finding", "check_rows"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Rows that share a fault, and what it is."""

    rows: tuple[Row, ...]
    fault: str


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The outcome of a check.

    Attributes:
        num_rows: rows looked at.
        ungradable: golds that not even themselves meet, with the verifier's reason.
        duplicates: questions that occur more than once, all with golds that are equal.
        conflicts: questions that occur more than once with golds that are not.
        overlap: questions that the other files have too.
    """

    num_rows: int
    ungradable: tuple[Finding, ...]
    duplicates: tuple[Finding, ...]
    conflicts: tuple[Finding, ...]
    overlap: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Nothing that makes a number wrong; a repeated question alone does not."""
        return not (self.ungradable or self.conflicts or self.overlap)


def check_rows(rows: Sequence[Row], others: Sequence[Row] = ()) -> DataReport:
    """Check the rows of a file, and whether ``others`` (of evaluation files) share questions with it."""
    ungradable = [Finding(rows=(row,), fault=fault) for row in rows if (fault := gold_problem(row.golds))]
    repeated = [group for group in _by_question(rows).values() if len(group) > 1]
    conflicts = [group for group in repeated if not _agree(group)]
    duplicates = [group for group in repeated if group not in conflicts]
    ours, theirs = _by_question(rows, loose_key), _by_question(others, loose_key)
    shared = [(group, theirs[key]) for key, group in ours.items() if key in theirs]
    return DataReport(
        num_rows=len(rows),
        ungradable=tuple(ungradable),
        duplicates=tuple(Finding(rows=tuple(group), fault="repeated") for group in duplicates),
        conflicts=tuple(Finding(rows=tuple(group), fault="golds differ") for group in conflicts),
        overlap=tuple(Finding(rows=(*mine, *found), fault="in both") for mine, found in shared),
    )


def _by_question(rows: Sequence[Row], key_of: Callable[[str], str] = question_key) -> dict[str, list[Row]]:
    """The rows of each question; a row without one is in none."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if key := key_of(row.question):
            groups.setdefault(key, []).append(row)
    return groups


def _agree(group: Sequence[Row]) -> bool:
    first, *rest = dict.fromkeys(row.golds for row in group)
    return all(verify(f"\\boxed{{{golds[0]}}}", first).correct for golds in rest)
