"""One clean file of problems out of several published ones.

Purpose: what is trained on has each question once, a gold that can be graded, one answer format, and nothing in common
with what is measured on. Published sets have none of that: DAPO-Math-17k holds each prompt about a hundred times, in
instructions that contradict the box that is paid for.
Contract: the result has the layout ``prepared``, in the order of the inputs, and is written as a whole or not at all.
What was left out is in the report, which is saved beside the file. Of questions with two different golds neither is
kept, because nobody knows which one is right.
Left out: near-duplicates in other words.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from retool_env.data.tables import RawRow, check_out, write_table
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.problems import Problem
from retool_env.sources.file import FileReader, Seen, asked
from retool_env.sources.golds import OTHER_GOLD, Dropped, keep_gradable
from retool_env.sources.wording import loose_key

__all__ = ["PrepareReport", "prepare"]


class PrepareReport(BaseModel):
    """What became of the rows; their numbers add up.

    Attributes:
        num_rows: read.
        num_problems: written.
        num_repeats: questions that came before, with an equal gold.
        num_overlap: questions that the ``against`` files have too.
        dropped: id, gold and reason of all others.
        removed: names of the keys that were taken out of the settings for tools.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...]
    against: tuple[str, ...]
    num_rows: int
    num_problems: int
    num_repeats: int
    num_overlap: int
    dropped: tuple[tuple[str, str, str], ...]
    removed: tuple[str, ...]

    def lines(self) -> list[str]:
        """The report for people."""
        reasons = Counter(reason.partition(" than ")[0] for _, _, reason in self.dropped)
        why = f" ({', '.join(f'{name} {count}' for name, count in reasons.most_common())})" if reasons else ""
        return [
            f"rows read            {self.num_rows}",
            f"repeats left out     {self.num_repeats}",
            f"also in --against    {self.num_overlap}",
            f"dropped              {len(self.dropped)}{why}",
            f"problems written     {self.num_problems}",
            *([f"tools are not told   {', '.join(self.removed)}"] if self.removed else []),
        ]


def prepare(
    inputs: Sequence[str],
    out: Path,
    *,
    against: Sequence[str] = (),
    layout: str | None = None,
    split: str = "train",
    size: int | None = None,
) -> PrepareReport:
    """Write the problems of ``inputs`` to ``out``, and the report to ``out`` with ``.summary.json`` behind it.

    Args:
        inputs: files, or ``hf:owner/name``.
        out: a ``.jsonl`` or ``.parquet`` file.
        against: evaluation files whose questions must not be in the result.
        layout: of all inputs; ``None`` to find it out for each.
        split: of data sets on the hub.
        size: stop after so many problems.

    Raises:
        UsageError: a file that cannot be read or written, or nothing is left.
    """
    check_out(out)
    seen, held_out = Seen(), _HeldOut(against)
    readers = [FileReader(path=path, layout=layout, split=split, seen=seen) for path in inputs]
    fresh = held_out.removed_from(itertools.chain.from_iterable(readers))
    kept, dropped = keep_gradable(fresh, where=", ".join(inputs), limit=size)
    problems = [problem for problem in kept if problem.id not in seen.contradicted]
    doubtful = [Dropped(id=p.id, gold=p.answer, reason=OTHER_GOLD) for p in kept if p.id in seen.contradicted]
    if not problems:
        raise UsageError(f"{', '.join(inputs)}: no problem is left")
    report = PrepareReport(
        inputs=tuple(inputs),
        against=tuple(against),
        num_rows=sum(reader.num_rows for reader in readers),
        num_problems=len(problems),
        num_repeats=seen.num_repeats,
        num_overlap=held_out.num_found,
        dropped=tuple((one.id, one.gold, one.reason) for one in (*dropped, *doubtful)),
        removed=tuple(sorted(set().union(*(reader.removed for reader in readers)))),
    )
    write_table(out, map(prepared_row, problems))
    save_report(out, report)
    return report


def prepared_row(problem: Problem) -> RawRow:
    """The problem in the layout ``prepared``."""
    messages = None if isinstance(problem.prompt, str) else [message.model_dump() for message in problem.prompt]
    return {
        "id": problem.id,
        "prompt": problem.question,
        "answer": problem.answer,
        "source": problem.source,
        "family": problem.family,
        "messages": messages,
        "metadata": problem.metadata or None,
        "tools_kwargs": problem.tools_kwargs or None,
    }


def save_report(out: Path, report: BaseModel) -> Path:
    """Write a report as ``OUT.summary.json``; returns where."""
    path = out.with_name(f"{out.name}.summary.json")
    with atomic(path) as temporary:
        temporary.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return path


class _HeldOut:
    """The questions of evaluation files, taken out of what is read and counted.

    They are compared loosely: a problem too few is a small loss, one that is measured on is not.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.num_found = 0
        found = itertools.chain.from_iterable(FileReader(path=path) for path in paths)
        self._questions = {asked(one, loose_key) for one in found if isinstance(one, Problem)} - {""}

    def removed_from(self, rows: Iterable[Problem | Dropped]) -> Iterator[Problem | Dropped]:
        for one in rows:
            if isinstance(one, Problem) and asked(one, loose_key) in self._questions:
                self.num_found += 1
            else:
                yield one
