"""GSM8K as published: one JSON object per line with ``question`` and ``answer``.

``answer`` is a worked solution that ends in ``#### 42``; the gold is what follows. Its calculator annotations
(``<<48/2=24>>``) are kept apart by :func:`calculator_annotations` and never reach a prompt; an oracle replays them as
code to check the whole chain on real data.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from retool_env.errors import UsageError
from retool_env.problems import Problem

__all__ = ["calculator_annotations", "read_gsm8k"]

_ANNOTATION = re.compile(r"<<([^<>=]+)=[^<>]*>>")


def read_gsm8k(path: Path) -> tuple[Problem, ...]:
    """All problems of a file, in order.

    Raises:
        UsageError: the file is missing, a line is not JSON, a column is missing, or a gold is empty.
    """
    if not path.is_file():
        raise UsageError(f"problems.path={str(path)!r}: no such file; give the path of a GSM8K jsonl file")
    problems: list[Problem] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                problems.append(_read_row(path, number, line))
    if not problems:
        raise UsageError(f"{path}: holds no problem; expected one JSON object per line")
    return tuple(problems)


def _read_row(path: Path, number: int, line: str) -> Problem:
    where = f"{path}:{number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON ({error}); expected one JSON object per line") from error
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a {type(row).__name__}; expected an object with 'question' and 'answer'")
    for column in ("question", "answer"):
        if not isinstance(row.get(column), str):
            raise UsageError(f"{where}: no text column {column!r}; it has {', '.join(map(repr, row)) or 'none'}")
    solution, separator, gold = row["answer"].rpartition("####")
    if not separator:
        raise UsageError(f"{where}: the answer has no '####' in front of the gold; is this a GSM8K file?")
    if not gold.strip():
        raise UsageError(f"{where}: the gold answer after '####' is empty; fix or delete the row")
    if not row["question"].strip():
        raise UsageError(f"{where}: the question is empty; fix or delete the row")
    return Problem(
        id=f"gsm8k/{number - 1}",
        prompt=row["question"],
        answer=gold.strip().replace(",", ""),
        source="gsm8k",
        metadata={"solution": solution},
    )


def calculator_annotations(problem: Problem) -> tuple[str, ...]:
    """The left-hand sides of the calculator annotations of a problem, in order; ``()`` when it has none."""
    return tuple(match[1].strip() for match in _ANNOTATION.finditer(problem.metadata.get("solution", "")))
