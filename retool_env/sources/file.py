"""Problems of a file or of a data set on the Hugging Face hub, whatever its layout.

Contract: rows are streamed and checked as they are read, so a bad row is named before anything runs. Repeated questions
are left out and counted, problems whose gold cannot be graded are left out and listed; one warning says both. Of
questions with two different golds the first is kept and the other one listed. Problem ``i`` is the same in every
process and with every ``size``. Unique problems are held in memory, and a file is read once in a process as long as
it does not change.
Left out: which layout a row has (:mod:`.layouts`), and what the bytes mean (:mod:`retool_env.data.tables`).
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from retool_env.data.progress import track
from retool_env.data.tables import Numbered, count_rows, read_table
from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.sources import ListSource
from retool_env.sources.golds import OTHER_GOLD, Dropped, keep_gradable
from retool_env.sources.layouts import detect_layout, named_layout, read_row, same_row
from retool_env.sources.rates import Difficulty
from retool_env.sources.wording import question_key
from retool_env.verifier import verify

__all__ = ["FileReader", "Seen", "asked", "read_source"]

HUB = "hf:"
_log = logging.getLogger(__name__)
_lock = threading.Lock()


class Seen:
    """What was read before, in one file or several.

    Attributes:
        num_repeats: questions that came again with the same gold.
        contradicted: ids of problems whose question came again with another gold.
    """

    def __init__(self) -> None:
        self.num_repeats = 0
        self.contradicted: set[str] = set()
        self._copies: set[bytes] = set()
        self._first: dict[str, Problem] = {}
        self._ids: dict[str, int] = {}

    def is_copy(self, text: str) -> bool:
        """Whether exactly this came before; counts as a repeat then. Cheap, for files that are full of copies."""
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        if digest in self._copies:
            self.num_repeats += 1
            return True
        self._copies.add(digest)
        return False

    def unless_known(self, problem: Problem) -> Problem | Dropped | None:
        """The problem if its question is new, nothing for a repeat, and what contradicts an earlier one as dropped."""
        key = asked(problem)
        first = self._first.setdefault(key, problem) if key else problem
        if first is problem:
            return problem
        if first.answer != problem.answer and not verify(f"\\boxed{{{problem.answer}}}", first.answer).correct:
            self.contradicted.add(first.id)
            return Dropped(id=problem.id, gold=problem.answer, reason=f"{OTHER_GOLD} than {first.id}")
        self.num_repeats += 1
        return None

    def own_id(self, problem: Problem) -> Problem:
        """The problem with an id that no earlier one has: its second bearer is called ``id~2``."""
        count = self._ids[problem.id] = self._ids.get(problem.id, 0) + 1
        return problem if count == 1 else problem.model_copy(update={"id": f"{problem.id}~{count}"})


@dataclass(kw_only=True)
class FileReader:
    """Reads the problems of one file, once.

    Args:
        path: of a file, or ``hf:owner/name``.
        layout: name of a layout; ``None`` to find it out from the first row.
        split: of a data set on the hub.
        unique: leave out questions that came before.
        seen: what came before.
        source: what to call the source, whatever the rows say.

    Attributes:
        num_rows: rows read so far.
        removed: names of the keys that were taken out of ``tools_kwargs``.
    """

    path: str
    layout: str | None = None
    split: str = "train"
    unique: bool = True
    seen: Seen = field(default_factory=Seen)
    source: str = ""
    num_rows: int = 0
    removed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._layout = named_layout(self.layout) if self.layout else None

    def __iter__(self) -> Iterator[Problem | Dropped]:
        """The problems in file order.

        Raises:
            UsageError: the file or a row of it cannot be read.
        """
        for number, row in self._rows():
            where = f"{self.path}:{number}"
            self._layout = self._layout or detect_layout(row, where)
            self.num_rows += 1
            if self.unique and self.seen.is_copy(same_row(self._layout, row)):
                continue
            found = read_row(
                self._layout,
                row,
                number=number,
                where=where,
                source=self.source,
                stem=self._stem,
                removed=self.removed,
            )
            found = self.seen.own_id(found) if isinstance(found, Problem) else found
            new = self.seen.unless_known(found) if isinstance(found, Problem) and self.unique else found
            if new is not None:
                yield new
        if not self.num_rows:
            raise UsageError(f"{self.path}: holds no problem; expected one object per row")

    @property
    def _stem(self) -> str:
        return self.path.rpartition("/")[2] if self.path.startswith(HUB) else Path(self.path).stem

    def _rows(self) -> Iterator[Numbered]:
        if self.path.startswith(HUB):
            from retool_env.sources.hub import read_hub

            return track(read_hub(self.path.removeprefix(HUB), self.split), self.path)
        if not Path(self.path).is_file():
            raise UsageError(f"problems.path={self.path!r}: no such file")
        path = Path(self.path)
        return track(read_table(path), path.name, total=count_rows(path))


def read_source(
    path: str,
    *,
    name: str,
    layout: str | None,
    split: str,
    size: int | None,
    unique: bool,
    difficulty: Difficulty,
    source: str = "",
) -> ListSource:
    """The problems of a file as a source; see :func:`retool_env.sources.open_source`.

    Raises:
        UsageError: the file cannot be read, or no problem is left.
    """
    with _lock:  # environments of several threads open the same file at once; one of them reads it
        return _read(path, _stamp(path), name, layout, split, size, unique, difficulty, source)


@functools.lru_cache(maxsize=8)
def _read(
    path: str,
    stamp: tuple[int, int],
    name: str,
    layout: str | None,
    split: str,
    size: int | None,
    unique: bool,
    difficulty: Difficulty,
    source: str,
) -> ListSource:
    """``stamp`` is only there to be different when the file has changed."""
    reader = FileReader(path=path, layout=layout, split=split, unique=unique, source=source)
    problems, dropped = keep_gradable(difficulty.within(reader, where=path), where=path, limit=size)
    if reader.seen.num_repeats:
        _log.warning(
            "%s: %d rows, %d unique problems; %d repeats left out (problems.unique=false keeps them)",
            path,
            reader.num_rows,
            len(problems),
            reader.seen.num_repeats,
        )
    if reader.removed:
        _log.warning("%s: tools are not told %s", path, ", ".join(sorted(reader.removed)))
    return difficulty.ordered(
        ListSource(
            name=name, problems=problems, dropped=dropped, num_rows=reader.num_rows, num_repeats=reader.seen.num_repeats
        )
    )


def _stamp(path: str) -> tuple[int, int]:
    """What changes when the file does."""
    if path.startswith(HUB) or not Path(path).is_file():
        return (0, 0)
    stat = Path(path).stat()
    return (stat.st_mtime_ns, stat.st_size)


def asked(problem: Problem, key_of: Callable[[str], str] = question_key) -> str:
    """What is the same for two writings of one question; the system's words do not count."""
    if isinstance(problem.prompt, str):
        return key_of(problem.prompt)
    return key_of("\n".join(message.content for message in problem.prompt if message.role != "system"))
