"""Rows of a file: JSONL, a JSON array, CSV or Parquet, in and out.

Contract: reading yields rows one by one with their number from 1 (the line of a text file). Parquet is read in batches
and JSONL by lines; a JSON array is read as a whole. Writing is atomic: the file is there complete, or not at all.
Text is UTF-8, with a byte order mark or without; half a surrogate pair in JSON becomes U+FFFD, because no file and no
tokenizer can take it. In Parquet, whose columns have one type, nested values of rows that come from elsewhere are
written as JSON text; :func:`nested` reads both.
Left out: what the columns mean.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO

from retool_env.dialects.json_calls import without_halves
from retool_env.errors import MissingExtraError, UsageError
from retool_env.files import atomic

__all__ = ["Numbered", "RawRow", "check_out", "count_rows", "nested", "plain_text", "read_table", "write_table"]

RawRow = Mapping[str, Any]
"""A row as it was found, before anything is known about its columns."""

Numbered = tuple[int, RawRow]
BATCH: Final = 4096
_LONGEST_FIELD: Final = 2**31 - 1


def read_table(path: Path) -> Iterator[Numbered]:
    """The rows of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file.

    Raises:
        UsageError: no such file, an unknown suffix, or content that is not what the suffix says.
        MissingExtraError: Parquet without the ``[data]`` extra.
    """
    if not path.is_file():
        raise UsageError(f"{str(path)!r}: no such file")
    return _reader(path)(path)


def count_rows(path: Path) -> int | None:
    """How many rows a Parquet file has; ``None`` for others, which would have to be read for it."""
    return int(_parquet_file(path).metadata.num_rows) if path.suffix == ".parquet" else None


def nested(value: Any, where: str) -> Any:
    """A nested value that may be JSON text.

    Raises:
        UsageError: text that is not JSON.
    """
    return _decode(value, f"{where}: {value[:40]!r} is", "") if isinstance(value, str) else value


def plain_text(value: Any) -> str:
    """What a cell says, as text; nothing for an object and for a number that is none, which say nothing.

    >>> [plain_text(one) for one in (42, "x", None, float("nan"), {"a": 1})]
    ['42', 'x', '', '', '']
    """
    if value is None or isinstance(value, Mapping) or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value)


def write_table(path: Path, rows: Iterable[RawRow], *, like: Path | None = None) -> int:
    """Write rows to a ``.jsonl`` or ``.parquet`` file; returns how many.

    Args:
        like: a Parquet file that the rows come from, whose column types are kept; they are then written in batches.
            Without it all rows of a Parquet file are held in memory, because its types depend on all of them.

    Raises:
        UsageError: another suffix, or a folder that cannot be written to.
    """
    check_out(path)
    write = _write_parquet if path.suffix == ".parquet" else _write_jsonl
    with atomic(path) as temporary:
        return write(temporary, rows, like if like and like.suffix == ".parquet" else None)


def check_out(path: Path) -> None:
    """Refuse a name that :func:`write_table` cannot write."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"--out {str(path)!r}: give a name that ends in .jsonl or .parquet")


def _reader(path: Path) -> Callable[[Path], Iterator[Numbered]]:
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UsageError(f"{str(path)!r}: expected a .jsonl, .json, .csv or .parquet file")
    return readers[path.suffix]


def _jsonl(path: Path) -> Iterator[Numbered]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = _decode(line, f"{path}:{number}:", "; expected one JSON object per line")
                yield number, _object(row, f"{path}:{number}")


def _json(path: Path) -> Iterator[Numbered]:
    """A list of objects; what is written line by line in a file of this name is read too."""
    with _opened(path) as file:
        if file.read(1024).lstrip()[:1] == "{":
            yield from _jsonl(path)
            return
        file.seek(0)
        rows = _decode(file.read(), f"{path}:", "; expected a list of objects")
    if not isinstance(rows, list):
        raise UsageError(f"{path}: a {type(rows).__name__}; expected a list of objects")
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, f"{path}:{number}")


def _csv(path: Path) -> Iterator[Numbered]:
    csv.field_size_limit(_LONGEST_FIELD)  # of the whole process; the default refuses a long solution
    with _opened(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            if None in row or None in row.values():
                raise UsageError(f"{path}: row {number} has not as many fields as the header")
            yield number, row


@contextlib.contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a file; what is no text is told in one line, also when it shows only later."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 ({error.reason}); convert it, for example with iconv -t UTF-8") from error
    except csv.Error as error:
        raise UsageError(f"{path}: not CSV ({error})") from error


def _decode(text: str, where: str, expected: str) -> Any:
    """JSON that can be written again: without the halves of surrogate pairs."""
    try:
        return json.loads(without_halves(text) if "\\ud" in text or "\\uD" in text else text)
    except ValueError as error:
        raise UsageError(f"{where} not JSON ({error}){expected}") from error
    except RecursionError as error:
        raise UsageError(f"{where} not JSON that can be read (too many brackets inside of each other)") from error


def _parquet(path: Path) -> Iterator[Numbered]:
    number = 0
    for batch in _parquet_file(path).iter_batches(batch_size=BATCH):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _parquet_file(path: Path) -> Any:
    pa, pq = _arrow(path)
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{str(path)!r}: not a parquet file ({error})") from error


def _arrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(f"{str(path)!r}: a parquet file", "data") from error
    return pa, pq


def _object(row: Any, where: str) -> RawRow:
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a {type(row).__name__}; expected an object")
    return row


def _write_jsonl(path: Path, rows: Iterable[RawRow], like: Path | None) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(_text(row) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, rows: Iterable[RawRow], like: Path | None) -> int:
    pa, pq = _arrow(path)
    if like is None:
        flat = [_flat(row) for row in rows]
        columns = list(dict.fromkeys(name for row in flat for name in row))
        try:
            table = pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in flat])
        except pa.ArrowException as error:
            raise UsageError(f"a column holds values of different types ({error}); write .jsonl instead") from error
        pq.write_table(table, path)
        return int(table.num_rows)
    schema = _parquet_file(like).schema_arrow
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _batches(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    batch: list[RawRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _flat(row: RawRow) -> RawRow:
    return {name: _text(value) if isinstance(value, dict | list | tuple) else value for name, value in row.items()}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
