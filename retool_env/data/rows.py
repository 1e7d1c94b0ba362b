"""Questions and gold answers out of a file, whatever its columns are called.

Purpose: DAPO (``prompt`` as messages, ``reward_model.ground_truth``), GSM8K (``answer`` that ends in ``#### 42``), MATH
(``problem``, ``answer``), AIME (``input``, ``output``) and plain ``{prompt, answer}`` files are all checked by one
command.
Contract: every row is read or is an error that names file and line. A gold that is a list is several accepted answers;
numbers become text. An object is no gold, and neither is NaN.
Left out: turning rows into problems for a run, which is a source's work (:mod:`retool_env.sources`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retool_env.data.tables import plain_text, read_table
from retool_env.errors import UsageError

__all__ = ["Row", "read_rows"]

# In order of preference: a file may hold a worked solution beside the bare answer, and a templated text beside the
# question.
QUESTION_COLUMNS = ("question", "problem", "prompt", "input")
GOLD_COLUMNS = ("reward_model.ground_truth", "ground_truth", "gt_answer", "gold", "answer", "output", "target")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a file.

    Attributes:
        where: ``file:line``, or ``file:row`` of a parquet file, from 1.
        question: as asked.
        golds: the accepted answers; one empty text when the row has none.
    """

    where: str
    question: str
    golds: tuple[str, ...]


def read_rows(
    path: Path, *, question: str | None = None, gold: str | None = None, size: int | None = None
) -> list[Row]:
    """The rows of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file.

    Args:
        question: name of the column with the question (``a.b`` for a nested one); found by itself when not given.
        gold: the same for the gold answer.
        size: the first so many; ``None`` for all.

    Raises:
        UsageError: no such file, a suffix that is not known, a line that is not JSON, or no such column.
    """
    rows: list[Row] = []
    columns = (question, gold)
    for number, values in itertools.islice(read_table(path), size):
        where = f"{path.name}:{number}"
        if not rows:
            asked = _column(values, question, QUESTION_COLUMNS, "question", where)
            columns = (asked, _column(values, gold, GOLD_COLUMNS, "gold", where))
        asked_for, right = (_get(values, column or "") for column in columns)
        rows.append(Row(where=where, question=_question(asked_for), golds=_golds(right)))
    if not rows:
        raise UsageError(f"{str(path)!r}: holds no row")
    return rows


def _column(values: Mapping[str, Any], asked: str | None, known: tuple[str, ...], what: str, where: str) -> str:
    for name in (asked,) if asked else known:
        if _get(values, name) is not None:
            return name
    expected = asked or ", ".join(known)
    raise UsageError(
        f"{where}: no {what} column ({expected}); it has {', '.join(values)}. Name it with --{what} COLUMN"
    )


def _get(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _question(value: Any) -> str:
    """The text, or the last message of a chat."""
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        return str(value[-1].get("content") or "")
    return plain_text(value)


def _golds(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple):
        return tuple(plain_text(one) for one in value) or ("",)
    text = plain_text(value)
    # GSM8K: a worked solution, and the answer behind the last mark.
    return (text.rpartition("####")[2].strip() if "####" in text else text,)
