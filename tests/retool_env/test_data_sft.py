"""ReTool-SFT's raw rows as recordings and as messages: what is understood, mended and dropped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.cli import main
from retool_env.data.recordings import read_recordings
from retool_env.data.sft import Conversation, convert, convert_file
from retool_env.data.tables import read_table
from retool_env.dialects import make_dialect
from retool_env.episode import EpisodeLimits
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.recorded import RecordedTurn, Recording, replay
from retool_env.tokenizer import ByteTokenizer

USER = (
    "Solve the following problem step by step. You now have the ability to write code.\n*user question:*\n"
    "Answer the following Math Problem and put the answer in the format of \\boxed{answer}\n\nWhat is 6 times 7?\n\n\n"
    "Remember to place the final answer in the last part using the format: \n<answer>\n\\boxed{'The final answer goes "
    "here.'}\n</answer>"
)
PROGRAM = "<code>\n```python\nprint(6*7)\n```\n</code>"
OUTPUT = "\n<interpreter>\n42\n</interpreter>\n"
ANSWER = "<answer>\n\\boxed{'42'}\n</answer>"
GOOD = f"Let me compute.\n{PROGRAM}{OUTPUT}So it is 42.\n{ANSWER}"


def raw(assistant: str, user: str = USER) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_row_is_read_as_it_was_meant() -> None:
    found = convert(USER, GOOD)
    assert isinstance(found, Conversation)
    assert (found.question, found.answer) == ("What is 6 times 7?", "42")
    assert [(step.thought, step.code, step.output) for step in found.steps] == [("Let me compute.", "print(6*7)", "42")]
    assert found.final == "So it is 42.\n<answer>\n\\boxed{42}\n</answer>"
    assert found.mended == ("quotes in the box",)


MENDED = [
    (GOOD + "\n", ()),  # the reference asserts for a newline here
    (GOOD + "\nI hope this helps.", ("text behind the answer",)),
    (GOOD.replace("</code>\n", "</code>\nIt runs.\n"), ("text between a program and its output",)),
    (GOOD.replace(ANSWER, "\\boxed{42}"), ("no answer tag",)),
    (GOOD.replace("```python\n", "").replace("```\n", ""), ()),
    (f"{PROGRAM}{OUTPUT}{PROGRAM}{OUTPUT}{ANSWER}", ()),
    (ANSWER, ()),
]


@pytest.mark.parametrize(("assistant", "mended"), MENDED)
def test_what_the_reference_asserts_on_is_mended(assistant: str, mended: tuple[str, ...]) -> None:
    found = convert(USER, assistant)
    assert isinstance(found, Conversation)
    assert tuple(what for what in found.mended if what != "quotes in the box") == mended
    assert found.answer == "42"
    assert "hope" not in found.final


def test_a_question_without_the_marker() -> None:
    found = convert("6 times 7?", GOOD)
    assert isinstance(found, Conversation)
    assert found.question == "6 times 7?"
    assert "no marker in front of the question" in found.mended


DROPPED = [
    ("", "no final answer"),
    ("I do not know.", "no final answer"),
    (f"{PROGRAM}\nso\n{ANSWER}", "a program without an output"),
    (f"{PROGRAM}\n{PROGRAM}{OUTPUT}{ANSWER}", "a program without an output"),
    (f"<code>\n\n</code>{OUTPUT}{ANSWER}", "an empty program"),
    (f"print(1)</code>{OUTPUT}{ANSWER}", "a program without an opening tag"),
    (f"I think{OUTPUT}{PROGRAM}{OUTPUT}{ANSWER}", "an output without a program"),
    (f"I think{OUTPUT}{ANSWER}", "<interpreter> in the last turn"),
    (f"{PROGRAM}{OUTPUT}<code>print(1){ANSWER}", "<code> in the last turn"),
]


@pytest.mark.parametrize(("assistant", "reason"), DROPPED)
def test_what_cannot_be_used_is_dropped_with_the_reason(assistant: str, reason: str) -> None:
    assert convert(USER, assistant) == reason


@given(
    st.lists(
        st.sampled_from([PROGRAM, OUTPUT, ANSWER, "<code>", "</code>", "<interpreter>", "text ", "\n"]), max_size=9
    )
)
def test_nothing_in_a_row_raises_and_what_is_kept_can_be_played(pieces: list[str]) -> None:
    found = convert(USER, "".join(pieces))
    if isinstance(found, str):
        return
    row = found.row("x", "recording")
    problem = Problem(id="x", prompt=row["prompt"], answer=row["answer"])
    turns = tuple(RecordedTurn(text=turn["text"], outputs=tuple(turn["outputs"])) for turn in row["turns"])
    limits = EpisodeLimits(max_tool_rounds=20)
    episode = replay(
        Recording(problem=problem, turns=turns),
        dialect=make_dialect("retool"),
        tokenizer=ByteTokenizer(),
        limits=limits,
    )
    assert episode.outcome is Outcome.ANSWERED
    # Everything but blanks and what was mended is there, in the order of the row.
    if set(found.mended) <= {"quotes in the box", "no answer tag"}:
        kept = "".join(step.text + f"<interpreter>{step.output}</interpreter>" for step in found.steps) + found.final
        assert "".join(kept.split()) == "".join("".join(pieces).replace("'42'", "42").split())


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_both_forms_hold_the_same_conversation(suffix: str, tmp_path: Path) -> None:
    source = write(tmp_path / "raw.jsonl", raw(GOOD), raw("no"), raw(f"{PROGRAM}{OUTPUT}{GOOD}"))
    forms = {form: tmp_path / f"{form}.{suffix}" for form in ("recording", "messages")}
    for form, path in forms.items():
        assert main(["data", "sft", str(source), "--out", str(path), "--form", form]) == 0
    dialect, tokenizer = make_dialect("retool", instructions=False), ByteTokenizer()

    def texts(path: Path) -> Sequence[str]:
        episodes = [
            replay(recording, dialect=dialect, tokenizer=tokenizer, limits=EpisodeLimits())
            for recording in read_recordings(path, dialect)
        ]
        return ["".join(tokenizer.decode(episode.token_ids).split()) for episode in episodes]

    recorded, messages = texts(forms["recording"]), texts(forms["messages"])
    assert [text.replace("<answer>", "").replace("</answer>", "") for text in recorded] == messages
    assert len(recorded) == 2
    assert recorded[0] == "".join(f"What is 6 times 7?{GOOD}<eos>".replace("'42'", "42").split())


def test_messages_can_be_played_in_every_dialect(tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    convert_file(write(tmp_path / "raw.jsonl", raw(GOOD)), out, form="messages")
    (row,) = [row for _, row in read_table(out)]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1]["tool_calls"][0]["function"] == {
        "name": "code_interpreter",
        "arguments": {"code": "print(6*7)"},
    }
    assert row["messages"][-1]["content"] == "So it is 42.\n\n\\boxed{42}"
    assert row["tools"][0]["function"]["name"] == "code_interpreter"
    for name in ("retool", "hermes", "markdown"):
        dialect = make_dialect(name)
        (recording,) = read_recordings(out, dialect)
        episode = replay(recording, dialect=dialect, tokenizer=ByteTokenizer(), limits=EpisodeLimits())
        assert episode.outcome is Outcome.ANSWERED
        assert episode.rounds[0][0].call.code == "print(6*7)"


def test_the_report_says_what_was_left_out_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "raw.jsonl", raw(GOOD), raw("no"), raw("no"), raw(GOOD + "\nBye."))
    assert main(["data", "sft", str(source), "--out", str(tmp_path / "o.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert "dropped        2: no final answer" in printed
    assert "mended         1: text behind the answer" in printed
    assert "rows written   2, with 2 programs" in printed
    report = json.loads((tmp_path / "o.jsonl.summary.json").read_text())
    assert report["dropped"] == [[2, "no final answer"], [3, "no final answer"]]


NO_RECORDINGS = [
    ({"id": "a", "prompt": "Q", "answer": "1", "turns": [{"txt": "x"}]}, "not a recording ('text')"),
    ({"prompt": "Q", "answer": "1"}, "not a recording ('messages')"),
    ({"id": "a", "prompt": "Q", "answer": "", "turns": [{"text": "x"}]}, "not a recording"),
    ({"messages": [{"role": "tool", "content": "1"}]}, "not a recording"),
    (
        {"dialect": "retool", "id": "a", "prompt": "Q", "answer": "1", "turns": [{"text": "x"}]},
        "written in dialect 'retool', and env.dialect is 'hermes'; convert the file with `retool data sft --form",
    ),
]


@pytest.mark.parametrize(("row", "message"), NO_RECORDINGS)
def test_what_is_no_recording_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", row)
    with pytest.raises(UsageError) as error:
        list(read_recordings(path, make_dialect("hermes")))
    assert f"{path}:1: " in str(error.value)
    assert message in str(error.value)


def test_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of its 1 rows can be converted; the first: no final answer"):
        convert_file(write(tmp_path / "raw.jsonl", raw("no")), tmp_path / "o.jsonl")
    assert not (tmp_path / "o.jsonl").exists()
