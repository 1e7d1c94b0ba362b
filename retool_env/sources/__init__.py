"""Where problems come from: procedural generators and readers of files.

``open_source("arithmetic")`` and ``open_source("gsm8k", path=...)`` are the two of today. A reader checks every row
when it opens the file, so that a bad row is named before anything runs; a row whose gold answer cannot be graded is
dropped, listed in the source and counted in a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retool_env.errors import UsageError, did_you_mean
from retool_env.feeder import ProblemSource
from retool_env.problems import Problem
from retool_env.sources.golds import Dropped, keep_gradable

__all__ = ["Dropped", "ListSource", "Split", "open_source"]

Split = Literal["train", "heldout"]
NAMES = ("arithmetic", "gsm8k")


@dataclass(frozen=True, kw_only=True)
class ListSource:
    """Problems held in memory, and those of the file that were dropped because nothing could be graded against them."""

    name: str
    problems: Sequence[Problem] = field(repr=False)
    dropped: Sequence[Dropped] = ()

    @property
    def size(self) -> int:
        return len(self.problems)

    def problem(self, index: int) -> Problem:
        return self.problems[index]


def open_source(
    name: str = "arithmetic",
    *,
    path: str | Path | None = None,
    split: Split = "train",
    seed: int = 0,
    size: int | None = None,
    families: Mapping[str, float] | None = None,
) -> ProblemSource:
    """The source called ``name``.

    Args:
        path: the file of a reader.
        split: of a procedural source.
        seed: of a procedural source; the held-out set of a size is the same for every seed of a run.
        size: first so many problems (of those with a gold that can be graded); ``None`` for all of a file, or an
            endless procedural source.
        families: weights of a procedural source's families; ``None`` for equal ones.

    Raises:
        UsageError: an unknown name, or what the reader says.
    """
    if name == "arithmetic":
        from retool_env.sources.arithmetic import ArithmeticSource, fixed_set

        if size is not None:
            return fixed_set(size, split=split, seed=seed, families=families)
        return ArithmeticSource(split=split, seed=seed, families=families)
    if name == "gsm8k":
        from retool_env.sources.gsm8k import read_gsm8k

        if path is None:
            raise UsageError(
                "problems.path is not set; problems=gsm8k needs the jsonl file, e.g. problems.path=test.jsonl"
            )
        kept, dropped = keep_gradable(read_gsm8k(Path(path)), where=str(path), limit=size)
        return ListSource(name=name, problems=kept, dropped=dropped)
    raise UsageError(f"problems={name!r} is unknown{did_you_mean(name, NAMES)}")
