r"""ReTool-SFT's rows, one text with programs and outputs in it, as conversations of turns.

A raw row has two messages. The question stands behind ``*user question:*`` in the first; the second is reasoning with
``<code>...</code>`` and ``<interpreter>...</interpreter>`` in between, and ``<answer>...</answer>`` at the end. Two
forms come out of it:

- ``recording``: ``turns`` in the tag dialect, as a rollout of it would have written them; ``retool sft
  traces.path=FILE`` trains on them.
- ``messages``: assistant messages with ``tool_calls`` and messages of the role ``tool``, with the interpreter's schema
  in ``tools``, for other trainers; ``retool sft`` reads them too, for whichever dialect ``env.dialect`` names.

Contract: a row is converted, or dropped with the reason; nothing raises for what a row says. What was mended on the way
is counted. The reference converter asserts where this one mends (text behind the answer, no marker in front of the
question) or drops, and loses text between a program and its output without a word.
Left out: running the programs again to see whether the outputs are theirs.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from retool_env.data.prepare import save_report
from retool_env.data.progress import track
from retool_env.data.tables import RawRow, count_rows, nested, read_table, write_table
from retool_env.dialects.retool import CLOSE, OPEN, RetoolDialect
from retool_env.errors import UsageError
from retool_env.sources.wording import bare_question
from retool_env.tools import interpreter_spec
from retool_env.verifier import extract_answer

__all__ = ["Conversation", "Form", "SftReport", "Step", "convert", "convert_file"]

Form = Literal["recording", "messages"]
_MARKER: Final = "*user question:*"
_INSTRUCTION = re.compile(
    r"\A\s*Answer the following Math Problem and put the answer in the format of \\boxed\{answer\}\s*"
    r"|\s*Remember to (?:place|put) the final answer in the last part using the format:.*\Z",
    re.DOTALL | re.IGNORECASE,
)
_TAGS = re.compile(r"</?answer>")
_OUTPUT = re.compile(r"(.*?)<interpreter>(.*?)</interpreter>", re.DOTALL)
_QUOTED_BOX = re.compile(r"\\boxed\{'([^'{}]*)'\}")
_DIALECT: Final = RetoolDialect()


@dataclass(frozen=True, kw_only=True)
class Step:
    """A turn with a program: what was written, tags included, and what came back."""

    text: str
    output: str

    @property
    def thought(self) -> str:
        """What stands in front of the program."""
        return self.text.rpartition(OPEN)[0].strip()

    @property
    def code(self) -> str:
        return _DIALECT.parse(self.text).calls[0].code


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row that was understood.

    Attributes:
        final: the last turn, with the answer in it.
        mended: what had to be put right, by name.
    """

    question: str
    steps: tuple[Step, ...]
    final: str
    answer: str
    mended: tuple[str, ...] = ()

    def row(self, name: str, form: Form) -> RawRow:
        """The conversation as a row of a file."""
        common = {"id": name, "source": "retool_sft", "answer": self.answer}
        if form == "recording":
            turns = [{"text": step.text, "outputs": [step.output]} for step in self.steps]
            turns.append({"text": self.final, "outputs": []})
            return {**common, "dialect": _DIALECT.name, "prompt": self.question, "turns": turns}
        return {**common, "messages": self._messages(), "tools": [interpreter_spec().openai()]}

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": self.question}]
        for step in self.steps:
            call = {"type": "function", "function": {"name": "code_interpreter", "arguments": {"code": step.code}}}
            messages.append({"role": "assistant", "content": step.thought, "tool_calls": [call]})
            messages.append({"role": "tool", "content": step.output})
        return [*messages, {"role": "assistant", "content": _TAGS.sub("", self.final).strip()}]


class SftReport(BaseModel):
    """What became of the rows.

    Attributes:
        mended: how often what was put right.
        dropped: number of the row and the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    form: Form
    num_rows: int
    num_kept: int
    num_turns: int
    mended: dict[str, int]
    dropped: tuple[tuple[int, str], ...]

    def lines(self) -> list[str]:
        """The report for people."""
        reasons = Counter(reason for _, reason in self.dropped)
        return [
            f"rows read      {self.num_rows}",
            *(f"mended         {count}: {what}" for what, count in self.mended.items()),
            *(f"dropped        {count}: {why}" for why, count in reasons.most_common()),
            f"rows written   {self.num_kept}, with {self.num_turns} programs",
        ]


def convert_file(path: Path, out: Path, *, form: Form = "recording", size: int | None = None) -> SftReport:
    """Convert the rows of ``path``, or the first ``size`` of them, to ``out``; the report is saved beside it.

    Raises:
        UsageError: a file that cannot be read or written, a row without ``messages``, or nothing is left.
    """
    dropped: list[tuple[int, str]] = []
    mended: Counter[str] = Counter()
    num_rows = num_turns = 0

    def rows() -> Iterator[RawRow]:
        nonlocal num_rows, num_turns
        for number, row in itertools.islice(track(read_table(path), path.name, total=count_rows(path)), size):
            num_rows += 1
            found = convert(*_two_messages(row, f"{path}:{number}"))
            if isinstance(found, str):
                dropped.append((number, found))
                continue
            mended.update(found.mended)
            num_turns += len(found.steps)
            yield found.row(f"{path.stem}/{number - 1}", form)
        if num_rows == len(dropped):
            why = f"; the first: {dropped[0][1]}" if dropped else ""
            raise UsageError(f"{path}: none of its {num_rows} rows can be converted{why}")

    num_kept = write_table(out, rows())
    report = SftReport(
        file=str(path),
        form=form,
        num_rows=num_rows,
        num_kept=num_kept,
        num_turns=num_turns,
        mended=dict(mended),
        dropped=tuple(dropped),
    )
    save_report(out, report)
    return report


def convert(user: str, assistant: str) -> Conversation | str:
    r"""The conversation of a raw row, or the reason why there is none.

    >>> said = r"<code>print(6*7)</code><interpreter>42</interpreter>Done. <answer>\boxed{42}</answer>"
    >>> found = convert("*user question:* What is 6 * 7?", said)
    >>> found.question, found.steps[0].code, found.steps[0].output, found.answer
    ('What is 6 * 7?', 'print(6*7)', '42', '42')
    """
    mended: list[str] = []
    question = _question(user, mended)
    if not question:
        return "no question"
    steps = _steps(assistant, mended)
    if isinstance(steps, str):
        return steps
    turns, rest = steps
    final = _final(rest, mended)
    if found := _stray_tag(final):
        return f"{found} in the last turn"
    answer = extract_answer(final).answer
    if not answer:
        return "no final answer"
    return Conversation(question=question, steps=turns, final=final, answer=answer, mended=tuple(mended))


def _question(user: str, mended: list[str]) -> str:
    _, marker, asked = user.rpartition(_MARKER)
    if not marker:
        mended.append("no marker in front of the question")
        asked = user
    return bare_question(_INSTRUCTION.sub("", _TAGS.sub("", asked)))


def _steps(assistant: str, mended: list[str]) -> tuple[tuple[Step, ...], str] | str:
    """The turns with programs, and the text behind the last one; or what is wrong."""
    steps: list[Step] = []
    rest = assistant
    while CLOSE in rest:
        head, _, behind = rest.partition(CLOSE)
        if "<interpreter>" in head:
            return "an output without a program"
        text = head.lstrip("\n") + CLOSE
        (call,) = _DIALECT.parse(text).calls
        if call.problem:
            return "a program without an opening tag" if OPEN not in head else "an empty program"
        found = _OUTPUT.match(behind)
        if not found or OPEN in found[1]:
            return "a program without an output"
        if found[1].strip():
            mended.append("text between a program and its output")
        steps.append(Step(text=text, output=found[2].strip("\n")))
        rest = behind[found.end() :]
    return tuple(steps), rest


def _final(text: str, mended: list[str]) -> str:
    """The last turn, ending with its answer."""
    end = text.rfind("</answer>")
    if end >= 0 and text[end + len("</answer>") :].strip():
        mended.append("text behind the answer")
    final = (text[: end + len("</answer>")] if end >= 0 else text).strip("\n").rstrip()
    if end < 0:
        mended.append("no answer tag")
    unquoted = _QUOTED_BOX.sub(r"\\boxed{\1}", final)
    if unquoted != final:
        mended.append("quotes in the box")
    return unquoted


def _stray_tag(text: str) -> str:
    return next((tag for tag in (OPEN, "<interpreter>", "</interpreter>") if tag in text), "")


def _two_messages(row: RawRow, where: str) -> tuple[str, str]:
    """What the user and the assistant wrote; empty when they wrote nothing."""
    messages = nested(row.get("messages"), where)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UsageError(f"{where}: no list of objects in 'messages'; it has {', '.join(row)}; is this ReTool-SFT?")
    by_role = {str(message.get("role")): str(message.get("content") or "") for message in reversed(messages)}
    return by_role.get("user", ""), by_role.get("assistant", "")
