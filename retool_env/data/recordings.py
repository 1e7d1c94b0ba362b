"""Recordings out of a file: what ``retool data sft`` wrote, in either form.

Rows with ``turns`` are written in one dialect and are recordings as they are. Rows with ``messages`` hold programs as
tool calls, and every dialect can write those in its own way.
Left out: messages without an answer at the end, and tools that are not the interpreter in a dialect that has only that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retool_env.data.tables import RawRow, nested, read_table
from retool_env.dialects import Dialect
from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.recorded import RecordedTurn, Recording
from retool_env.tools import ToolCall
from retool_env.verifier import extract_answer

__all__ = ["read_recordings"]


def read_recordings(path: Path, dialect: Dialect) -> Iterator[Recording]:
    """The recordings of a file, in order.

    Raises:
        UsageError: no such file, or a row that is no recording, or one in another dialect.
    """
    for number, row in read_table(path):
        where = f"{path}:{number}"
        try:
            if row.get("turns"):
                yield _from_turns(row, dialect, where)
            else:
                yield _from_messages(row, dialect, number, where)
        except (AttributeError, KeyError, TypeError, ValidationError) as error:
            said = " ".join(str(error).split())[:120]
            raise UsageError(f"{where}: not a recording ({said}); make the file with `retool data sft`") from error


def _from_turns(row: RawRow, dialect: Dialect, where: str) -> Recording:
    written = row.get("dialect", dialect.name)
    if written != dialect.name:
        raise UsageError(
            f"{where}: written in dialect {written!r}, and env.dialect is {dialect.name!r}; convert the file with "
            "`retool data sft --form messages`, which every dialect can read"
        )
    turns = [
        RecordedTurn(text=turn["text"], outputs=tuple(turn.get("outputs") or ()))
        for turn in nested(row["turns"], where)
    ]
    problem = Problem(
        id=str(row["id"]), prompt=row["prompt"], answer=str(row["answer"]), source=str(row.get("source") or "")
    )
    return Recording(problem=problem, turns=tuple(turns))


def _from_messages(row: RawRow, dialect: Dialect, number: int, where: str) -> Recording:
    messages: Sequence[Mapping[str, Any]] = nested(row["messages"], where)
    first = next((k for k, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    asked = [{"role": message["role"], "content": message["content"]} for message in messages[:first]]
    turns: list[RecordedTurn] = []
    for message in messages[first:]:
        if message["role"] == "tool":
            if not turns:
                raise UsageError(f"{where}: a result of a tool before any call")
            turns[-1] = RecordedTurn(text=turns[-1].text, outputs=(*turns[-1].outputs, str(message["content"])))
        else:
            calls = [_call(call["function"], where) for call in message.get("tool_calls") or ()]
            turns.append(RecordedTurn(text=dialect.write(message.get("content") or "", calls)))
    answer = str(row.get("answer") or (extract_answer(turns[-1].text).answer if turns else ""))
    prompt = asked[0]["content"] if len(asked) == 1 else asked
    problem = Problem.model_validate({"id": str(row.get("id", number - 1)), "prompt": prompt, "answer": answer})
    return Recording(problem=problem, turns=tuple(turns))


def _call(function: Mapping[str, Any], where: str) -> ToolCall:
    return ToolCall(name=function["name"], arguments=nested(function["arguments"], where))
