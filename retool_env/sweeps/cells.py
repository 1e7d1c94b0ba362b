"""What is kept of a sweep and of its cells: ``sweep.json`` in its folder, ``cell.json`` in each cell's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import ValidationError

from retool_env.config import Config
from retool_env.errors import UsageError
from retool_env.files import atomic

__all__ = [
    "Attempt",
    "CellRecord",
    "SweepRecord",
    "is_sweep",
    "locked",
    "read_cell",
    "read_cells",
    "read_sweep",
    "write_record",
]

_SWEEP: Final = "sweep.json"
_CELL: Final = "cell.json"
_MOST: Final = 60
C = TypeVar("C", bound=Config)


class SweepRecord(Config):
    """What all cells have in common.

    Attributes:
        command: ``train``, ``eval`` or ``sft``.
        axes: keys whose values differ, ``seed`` last.
        fixed: all other overrides.
    """

    command: str
    axes: tuple[str, ...]
    fixed: tuple[str, ...]


class Attempt(Config):
    """One process of a cell.

    Attributes:
        begun: when, local time.
        seconds: wall time; ``None`` while it runs, and for ever if the sweep was killed with it.
        cpu_seconds: of the process and of the children that it waited for; ``None`` likewise.
        code: its exit code, negative for a signal; ``None`` likewise.
        error: what it said when it failed.
    """

    begun: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    code: int | None = None
    error: str = ""


class CellRecord(Config):
    """One cell.

    Attributes:
        values: by axis.
        overrides: with which it is run.
        attempts: its processes so far.
        score: of the finished run: accuracy of the last evaluation, or ``None``.
    """

    values: dict[str, str]
    overrides: tuple[str, ...]
    attempts: tuple[Attempt, ...] = ()
    score: float | None = None

    @property
    def status(self) -> Literal["finished", "failed", "unfinished"]:
        """``unfinished``: not begun, running, or killed together with its sweep."""
        if not self.attempts or self.attempts[-1].code is None:
            return "unfinished"
        return "finished" if self.attempts[-1].code == 0 else "failed"

    @property
    def label(self) -> str:
        """``algo=grpo seed=0``."""
        return " ".join(f"{axis}={value}" for axis, value in self.values.items()) or "the only cell"

    @property
    def folder(self) -> str:
        """The name of its folder, which can be written in a path on the command line as it is: ``algo-grpo_seed-0``."""
        return (
            "_".join(f"{_part(axis.rpartition('.')[2])}-{_part(value)}" for axis, value in self.values.items())
            or "cell"
        )

    @property
    def why(self) -> str:
        """Why it is not finished, in a line."""
        if self.status == "unfinished":
            return "was not finished" if self.attempts else "was not begun"
        last = self.attempts[-1]
        assert last.code is not None, "it failed"
        return last.error or (f"killed by signal {-last.code}" if last.code < 0 else f"exit code {last.code}")


def _part(text: str) -> str:
    """A piece of a folder's name; what had to be changed, or cut, gets a digest so that it stays different."""
    clean = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-")[:_MOST]
    return clean if clean == text else f"{clean}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has been run in the folder."""
    return (folder / _SWEEP).is_file()


def read_sweep(folder: Path) -> SweepRecord | None:
    """What the folder's sweep is about; ``None`` if it holds none."""
    return _read(SweepRecord, folder / _SWEEP)


def read_cell(folder: Path) -> CellRecord | None:
    """The record of one cell."""
    return _read(CellRecord, folder / _CELL)


def read_cells(folder: Path) -> dict[Path, CellRecord]:
    """The cells of a sweep that have been begun, by folder."""
    found = {path.parent: read_cell(path.parent) for path in sorted(folder.glob(f"*/{_CELL}"))}
    return {path: record for path, record in found.items() if record is not None}


def write_record(folder: Path, record: SweepRecord | CellRecord) -> None:
    """Keep a record in its folder."""
    with atomic(folder / (_SWEEP if isinstance(record, SweepRecord) else _CELL)) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """The descriptor of the cell's lock, or ``None`` when somebody else is at the cell. A process that inherits the
    descriptor holds the lock too, for as long as it lives."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


def _read(kind: type[C], path: Path) -> C | None:
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UsageError(f"{str(path)!r} is damaged ({error.errors()[0]['msg']}); delete it to begin anew") from error
