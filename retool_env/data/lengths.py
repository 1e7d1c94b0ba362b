"""Leave out rows whose prompt or response is too long for a recipe.

Contract: order is kept and rows are kept as they are, types of Parquet columns included. The prompt is measured through
the tokenizer's chat template; the response is what a row records of it (``response``, what follows the prompt in
``messages``, or ``turns``), and a row that records none has none. Nothing is held in memory but a few thousand rows.
Left out: the dialect's instructions, some hundred tokens that a run puts in front of the question.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from retool_env.data.prepare import save_report
from retool_env.data.progress import track
from retool_env.data.tables import Numbered, RawRow, count_rows, nested, read_table, write_table
from retool_env.errors import UsageError
from retool_env.problems import Message
from retool_env.tokenizer import load_tokenizer

__all__ = ["FilterReport", "filter_rows"]

CHUNK = 256
QUESTIONS = ("messages", "prompt", "question", "problem", "input", "Problem")
_Texts = tuple[tuple[Message, ...], str]
_tokenizer = "bytes"


class FilterReport(BaseModel):
    """What was left out, by the number of the row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    tokenizer: str
    max_prompt_tokens: int
    max_response_tokens: int
    num_rows: int
    num_kept: int
    long_prompts: tuple[int, ...]
    long_responses: tuple[int, ...]


def filter_rows(
    path: Path,
    out: Path,
    *,
    tokenizer: str = "bytes",
    max_prompt_tokens: int = 2048,
    max_response_tokens: int = 4096,
    workers: int = 1,
    size: int | None = None,
) -> FilterReport:
    """Write the rows of ``path`` that fit to ``out``, and the report beside it.

    Args:
        tokenizer: ``bytes``, or a folder with a ``tokenizer.json``.
        workers: processes; 1 for none but this one.
        size: look at the first so many rows; ``None`` for all.

    Raises:
        UsageError: a file, a row or the tokenizer cannot be read, or no row fits.
    """
    load_tokenizer(tokenizer)  # a mistake is told here, not by every worker
    long_prompts, long_responses = list[int](), list[int]()
    num_rows = 0

    def fitting() -> Iterator[RawRow]:
        nonlocal num_rows
        for (number, row), (prompt, response) in _measured(path, tokenizer, workers, size):
            num_rows += 1
            if prompt > max_prompt_tokens:
                long_prompts.append(number)
            elif response > max_response_tokens:
                long_responses.append(number)
            else:
                yield row
        if num_rows == len(long_prompts) + len(long_responses):
            raise UsageError(f"{path}: none of its {num_rows} rows fits; raise --max-prompt-tokens or look at the file")

    num_kept = write_table(out, fitting(), like=path)
    report = FilterReport(
        file=str(path),
        tokenizer=tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_response_tokens,
        num_rows=num_rows,
        num_kept=num_kept,
        long_prompts=tuple(long_prompts),
        long_responses=tuple(long_responses),
    )
    save_report(out, report)
    return report


def _measured(path: Path, tokenizer: str, workers: int, size: int | None) -> Iterator[tuple[Numbered, tuple[int, int]]]:
    """Every row with the tokens of its prompt and of its response."""
    rows = itertools.islice(track(read_table(path), path.name, total=count_rows(path)), size)
    waiting: deque[list[Numbered]] = deque()

    def chunks() -> Iterator[list[_Texts]]:
        while chunk := list(itertools.islice(rows, CHUNK)):
            waiting.append(chunk)
            yield [_texts(row, f"{path}:{number}") for number, row in chunk]

    if workers <= 1:
        _start(tokenizer)
        yield from _joined(map(_count, chunks()), waiting)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start, (tokenizer,)) as pool:
        yield from _joined(pool.imap(_count, chunks()), waiting)


def _joined(
    counted: Iterable[list[tuple[int, int]]], waiting: deque[list[Numbered]]
) -> Iterator[tuple[Numbered, tuple[int, int]]]:
    for lengths in counted:
        yield from zip(waiting.popleft(), lengths, strict=True)


def _start(tokenizer: str) -> None:
    global _tokenizer
    _tokenizer = tokenizer


def _count(chunk: list[_Texts]) -> list[tuple[int, int]]:
    tokenizer = load_tokenizer(_tokenizer)
    return [(len(tokenizer.encode_chat(prompt)), len(tokenizer.encode(response))) for prompt, response in chunk]


def _texts(row: RawRow, where: str) -> _Texts:
    """What a row asks and what it answers."""
    name = next((name for name in QUESTIONS if row.get(name)), None)
    if name is None:
        raise UsageError(f"{where}: no column with a prompt ({', '.join(QUESTIONS)}); it has {', '.join(row)}")
    value = row[name]
    if isinstance(value, str) and value.startswith("[{"):
        value = nested(value, where)
    if isinstance(value, str):
        return (Message(role="user", content=value),), _response(row, where)
    answered = next((k for k, message in enumerate(value) if message.get("role") == "assistant"), len(value))
    prompt = tuple(
        Message(role=str(m.get("role", "user")), content=str(m.get("content") or "")) for m in value[:answered]
    )
    return prompt, "".join(_message_text(message) for message in value[answered:]) or _response(row, where)


def _response(row: RawRow, where: str) -> str:
    if turns := row.get("turns"):
        return "".join(str(turn["text"]) + "".join(turn.get("outputs") or ()) for turn in nested(turns, where))
    return str(row.get("response") or "")


def _message_text(message: Mapping[str, Any]) -> str:
    calls = "".join(str(call.get("function")) for call in message.get("tool_calls") or ())
    return f"{message.get('content') or ''}{calls}"
