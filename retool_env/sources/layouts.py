"""The shapes in which data sets are published, and how a row of each becomes a problem.

============  =====================================================  =========================================
layout        columns                                                known from
============  =====================================================  =========================================
``dapo``      ``prompt`` (messages), ``reward_model.ground_truth``   DAPO-Math-17k, verl's RL files
``prepared``  ``id``, ``prompt``, ``answer``, ``source``             ``retool data prepare``
``gsm8k``     ``question``, ``answer`` that ends in ``#### 42``      GSM8K
``math``      ``problem``, ``answer``                                MATH-500, AIME 2025
``aime``      ``input``, ``output`` or ``Problem``, ``Answer``       ReTool's AIME files, AIME 2024
``rlvr``      ``messages``, ``ground_truth``                         RLVR JSONL with conversations
``plain``     ``prompt`` or ``question``, with ``answer`` or         everything simple, RLVR JSONL included
              ``ground_truth``
``response``  ``prompt``, ``response``                               the answer is the one that the response gives
============  =====================================================  =========================================

Contract: the gold goes to ``Problem.answer`` and nowhere else. Instructions about the answer's format are taken off the
question (:mod:`.wording`). ``tools_kwargs`` (or ``extra_info.tools_kwargs``, or a bare ``create_kwargs`` for the
interpreter) reach the problem without the gold (:mod:`.settings`).
Left out: several accepted answers. Of a list of golds the first one counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from retool_env.data.tables import RawRow, nested, plain_text
from retool_env.errors import UsageError, did_you_mean
from retool_env.problems import Message, Problem
from retool_env.sources.golds import Dropped
from retool_env.sources.settings import tool_settings
from retool_env.sources.wording import bare_question
from retool_env.verifier import extract_answer

__all__ = ["LAYOUTS", "Layout", "detect_layout", "named_layout", "read_row", "same_row"]

_MISSING: Final = object()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a problem are. Columns are tried in order; ``a.b`` is ``b`` inside of ``a``.

    Attributes:
        gold_mark: the gold is what follows the last one of these.
        gold_in_response: the gold is the answer that the text gives.
        source: what to call the source when the row does not say; ``""`` for the name of the file.
        id: columns with an id of the data set's own.
        needs: further columns that must be there.
        open: text and numbers in columns that nothing here knows are facts about the problem; reward functions get
            them by name.
    """

    name: str
    question: tuple[str, ...]
    gold: tuple[str, ...]
    gold_mark: str = ""
    gold_in_response: bool = False
    source: str = ""
    id: tuple[str, ...] = ("id",)
    needs: tuple[str, ...] = ()
    open: bool = False

    def fits(self, row: RawRow) -> bool:
        """Whether the row has the columns of this layout."""
        gold = _first(row, self.gold)
        marked = not self.gold_mark or (isinstance(gold, str) and self.gold_mark in gold)
        present = [_first(row, self.question), gold, *(_get(row, column) for column in self.needs)]
        return marked and not any(value is _MISSING or value is None for value in present)


LAYOUTS: Final = {
    layout.name: layout
    for layout in (
        Layout(name="dapo", question=("prompt",), gold=("reward_model.ground_truth",), id=("extra_info.index",)),
        Layout(name="prepared", question=("messages", "prompt"), gold=("answer",), needs=("id", "source")),
        Layout(name="gsm8k", question=("question",), gold=("answer",), gold_mark="####", source="gsm8k", id=()),
        Layout(name="math", question=("problem",), gold=("answer",), id=("unique_id", "id")),
        Layout(name="aime", question=("input", "Problem"), gold=("output", "Answer"), id=("ID",)),
        Layout(name="rlvr", question=("messages",), gold=("ground_truth",), open=True),
        Layout(name="plain", question=("prompt", "question", "problem"), gold=("ground_truth", "answer"), open=True),
        Layout(name="response", question=("prompt",), gold=("response",), gold_in_response=True),
    )
}
_FACTS: Final = ("level", "extra_info.level", "metadata")
_FAMILIES: Final = ("family", "subject", "extra_info.subject")


def named_layout(name: str) -> Layout:
    """The layout called ``name``. Raises :class:`UsageError`."""
    if name not in LAYOUTS:
        raise UsageError(f"problems.layout={name!r} is unknown{did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]


def detect_layout(row: RawRow, where: str) -> Layout:
    """The first layout that fits.

    Raises:
        UsageError: none does; names the columns of the row, the layouts and what may be a misspelling.
    """
    for layout in LAYOUTS.values():
        if layout.fits(row):
            return layout
    known = {column for layout in LAYOUTS.values() for column in (*layout.question, *layout.gold)}
    hints = [f"{name!r}{hint}" for name in row if "mean" in (hint := did_you_mean(name, known)) and name not in known]
    raise UsageError(
        f"{where}: its columns ({', '.join(row) or 'none'}) are of no layout; known: {', '.join(LAYOUTS)}; "
        f"{hints[0] if hints else 'rename them to prompt and answer'}"
    )


def read_row(
    layout: Layout, row: RawRow, *, number: int, where: str, source: str = "", stem: str, removed: set[str]
) -> Problem | Dropped:
    """The problem of a row.

    Args:
        number: of the row, from 1; its id where the data set has none.
        where: for messages.
        source: what to call the source, whatever the row says.
        stem: what to call it when neither row nor layout does.
        removed: names of the keys that were taken out of ``tools_kwargs`` are added to it.

    Returns:
        the problem, or why there is none: no question, or no gold.

    Raises:
        UsageError: a column is missing, or holds something of a kind that cannot be read.
    """
    source = source or _text(row, "data_source") or _text(row, "source") or layout.source or stem
    given = _first(row, layout.id)
    name = str(number - 1 if given in (_MISSING, None) else given)
    name = name if layout.name == "prepared" else f"{source}/{name}"
    prompt = _prompt(_column(row, layout.question, where), where)
    gold = _gold(layout, row, where)
    if not prompt or not gold:
        return Dropped(id=name, gold=gold, reason="empty_gold" if prompt else "empty_question")
    facts = _facts(layout, row, where)
    settings = tool_settings(_tools_kwargs(row, where), where, removed)
    family = next((text for column in _FAMILIES if (text := _text(row, column))), "")
    return Problem(
        id=name, prompt=prompt, answer=gold, source=source, family=family, metadata=facts, tools_kwargs=settings
    )


def same_row(layout: Layout, row: RawRow) -> str:
    """A text that is equal for rows with literally the same question and gold; cheap, for files full of copies."""
    return repr((_first(row, layout.question), _first(row, layout.gold)))


def _prompt(value: Any, where: str) -> str | tuple[Message, ...]:
    """Text, or a conversation up to where the assistant answers; one message alone is text."""
    if isinstance(value, str):
        with contextlib.suppress(UsageError):  # a question may begin like that too
            value = nested(value, where) if value.startswith("[{") else value
    if not isinstance(value, list | tuple):
        return bare_question(plain_text(value))
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise UsageError(f"{where}: a message {str(message)[:60]!r}; expected objects with 'role' and 'content'")
        if message.get("role") == "assistant":
            break
        messages.append(Message(role=str(message.get("role", "user")), content=bare_question(message["content"])))
    kept = tuple(message for message in messages if message.content)
    if not kept or kept[-1].role == "system":
        return ""
    return kept[0].content if len(kept) == 1 else kept


def _gold(layout: Layout, row: RawRow, where: str) -> str:
    value = _column(row, layout.gold, where)
    if isinstance(value, list | tuple):
        value = next((one for one in value if plain_text(one).strip()), "")
    text = plain_text(value).strip()
    if layout.gold_in_response:
        return extract_answer(text).answer
    if not layout.gold_mark:
        return text
    _, mark, gold = text.rpartition(layout.gold_mark)
    if not mark:
        raise UsageError(
            f"{where}: the answer has no {layout.gold_mark!r} in front of the gold; is this a {layout.name} file?"
        )
    if not gold.strip():
        raise UsageError(f"{where}: the gold answer after {layout.gold_mark!r} is empty; fix or delete the row")
    return gold.strip().replace(",", "")


def _facts(layout: Layout, row: RawRow, where: str) -> dict[str, str]:
    """What is kept beside question and gold; GSM8K's worked solution is one, because the oracle replays it."""
    facts: dict[str, str] = {}
    for column in _FACTS:
        value = _get(row, column)
        if column == "metadata":
            stored = nested(value, where) if value not in (_MISSING, None) else {}
            facts |= {str(k): str(v) for k, v in stored.items()} if isinstance(stored, Mapping) else {}
        elif value not in (_MISSING, None):
            facts[column.rpartition(".")[2]] = str(value)
    if layout.open:
        own = {*layout.question, *layout.gold, *layout.id, *_FAMILIES, *_FACTS, "source", "data_source"}
        facts |= {k: str(v) for k, v in row.items() if isinstance(v, str | int | float) and k not in own}
    if layout.gold_mark:
        facts["solution"] = str(_first(row, layout.gold)).rpartition(layout.gold_mark)[0]
    return facts


def _tools_kwargs(row: RawRow, where: str) -> Any:
    for column in ("tools_kwargs", "extra_info.tools_kwargs"):
        if (value := _get(row, column)) not in (_MISSING, None, ""):
            return nested(value, where)
    inner = _get(row, "create_kwargs")
    return {} if inner in (_MISSING, None, "") else {"code_interpreter": {"create_kwargs": nested(inner, where)}}


def _column(row: RawRow, names: tuple[str, ...], where: str) -> Any:
    value = _first(row, names)
    if value is _MISSING:
        expected = " or ".join(map(repr, names))
        raise UsageError(f"{where}: no text column {expected}; it has {', '.join(map(repr, row)) or 'none'}")
    return value


def _first(row: RawRow, names: tuple[str, ...]) -> Any:
    """The first of the columns that holds something; ``None`` when those that exist are empty."""
    values = [value for name in names if (value := _get(row, name)) is not _MISSING]
    return next((value for value in values if value is not None), None if values else _MISSING)


def _get(row: RawRow, name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _text(row: RawRow, column: str) -> str:
    value = _get(row, column)
    return value.strip() if isinstance(value, str) else ""
