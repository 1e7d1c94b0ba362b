"""Checking data files: what is found, what is not mistaken for a fault, and every way a file can be unreadable."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from retool_env.cli import main
from retool_env.data import check_rows, read_rows
from retool_env.errors import UsageError
from retool_env.sources import ListSource, open_source
from retool_env.sources.wording import bare_question

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


SHAPES = [
    ({"prompt": "Q", "answer": "42"}, "Q", ("42",)),
    ({"question": "Q", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}, "Q", ("42",)),
    ({"problem": "Q", "solution": "long", "answer": "42"}, "Q", ("42",)),
    ({"input": "Q", "output": 42}, "Q", ("42",)),
    ({"question": "Q", "ground_truth": ["42", "42.0"]}, "Q", ("42", "42.0")),
    ({"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"ground_truth": "42"}}, "Q", ("42",)),
    ({"prompt": "Q", "answer": None, "output": "42"}, "Q", ("42",)),
]


@pytest.mark.parametrize(("row", "question", "golds"), SHAPES)
def test_published_shapes_are_read(row: dict[str, Any], question: str, golds: tuple[str, ...], tmp_path: Path) -> None:
    (read,) = read_rows(write(tmp_path / "d.jsonl", row))
    assert (read.question, read.golds, read.where) == (question, golds, "d.jsonl:1")


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"a": {"b": "Q"}, "question": "not this", "c": "42"})
    (row,) = read_rows(path, question="a.b", gold="c")
    assert (row.question, row.golds) == ("Q", ("42",))


def test_parquet_is_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": [{"role": "user", "content": "Q"}], "reward_model": {"ground_truth": "42"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    (row,) = read_rows(tmp_path / "d.parquet")
    assert (row.question, row.golds) == ("Q", ("42",))


UNREADABLE = [
    ("d.jsonl", "{}", "d.jsonl:1: no question column (question, problem, prompt, input)"),
    ("d.jsonl", '{"question": "Q", "label": 1}', "no gold column"),
    ("d.jsonl", '{"question": "Q", "answer": "1"}\nnonsense', "d.jsonl:2: not JSON"),
    ("d.jsonl", "[1]", "d.jsonl:1: a list; expected an object"),
    ("d.jsonl", "\n", "holds no row"),
    ("d.txt", "a,b", "expected a .jsonl, .json, .csv or .parquet file"),
    ("d.parquet", "not parquet", "not a parquet file"),
]


@pytest.mark.parametrize(("name", "text", "message"), UNREADABLE)
def test_what_cannot_be_read_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as error:
        read_rows(tmp_path / name)
    assert message in str(error.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"'nowhere\.jsonl': no such file"):
        read_rows(Path("nowhere.jsonl"))


def test_every_fault_is_found_and_nothing_else(tmp_path: Path) -> None:
    rows = [
        {"question": "What is $1+1$?", "answer": "2"},
        {"question": "What  is $1 + 1$ ?", "answer": "2.0"},  # the same, with an equal gold
        {"question": "What is $1-1$?", "answer": "0"},  # another operator is another question
        {"question": DAPO.format("Find $x^2$."), "answer": "4"},
        {"question": "Find $x^2$.", "answer": "5"},  # the same in a template, with another gold
        {"question": "Lost?", "answer": ""},
        {"question": "Broken?", "answer": "\\frac{1}{"},
    ]
    held_out = [{"question": "what is $1-1$?", "answer": "0"}, {"question": "Other?", "answer": "1"}]
    report = check_rows(
        read_rows(write(tmp_path / "d.jsonl", *rows)), read_rows(write(tmp_path / "e.jsonl", *held_out))
    )
    places = {
        kind: [[row.where for row in finding.rows] for finding in getattr(report, kind)]
        for kind in ("ungradable", "duplicates", "conflicts", "overlap")
    }
    assert places == {
        "ungradable": [["d.jsonl:6"], ["d.jsonl:7"]],
        "duplicates": [["d.jsonl:1", "d.jsonl:2"]],
        "conflicts": [["d.jsonl:4", "d.jsonl:5"]],
        "overlap": [["d.jsonl:3", "e.jsonl:1"]],
    }
    assert [finding.fault for finding in report.ungradable] == ["empty_gold", "unclosed_box"]
    assert not report.clean


def test_a_repeated_question_alone_is_no_fault(tmp_path: Path) -> None:
    row = {"question": "What?", "answer": "1"}
    report = check_rows(read_rows(write(tmp_path / "d.jsonl", row, row)))
    assert (len(report.duplicates), report.clean) == (1, True)


def test_templates_are_taken_off() -> None:
    chat = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
    boxed = "Q?\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert {bare_question(text) for text in ("Q?", DAPO.format("Q?"), chat, boxed)} == {"Q?"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.jsonl", {"question": "One?", "answer": "1"})
    bad = write(tmp_path / "bad.jsonl", {"question": "One?", "answer": ""}, {"question": "Two?", "answer": " "})
    assert main(["data", "check", str(good)]) == 0
    assert "golds that cannot be graded: none" in capsys.readouterr().out
    assert main(["data", "check", str(bad), "--against", str(good), "--show", "1"]) == 1
    out = capsys.readouterr().out
    assert "golds that cannot be graded: 2\n  bad.jsonl:1: empty_gold" in out
    assert "... 1 more; --show 2 lists them all" in out
    assert "good.jsonl: 1\n  bad.jsonl:1, good.jsonl:1: in both" in out
    assert main(["data"]) == 0
    assert main(["data", "check", "--help"]) == 0
    assert main(["data", "check"]) == 2
    assert "retool: the following arguments are required: FILE" in capsys.readouterr().err


def test_a_source_drops_what_cannot_be_graded_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": f"Q{k}", "answer": f"#### {gold}"} for k, gold in enumerate(("1", "\\frac{", "3", "4"))]
    path = write(tmp_path / "g.jsonl", *rows)
    with caplog.at_level(logging.WARNING):
        source = open_source("gsm8k", path=path, size=2)
    assert isinstance(source, ListSource)
    assert [problem.answer for problem in source.problems] == ["1", "3"]
    assert [(one.id, one.gold, one.reason) for one in source.dropped] == [("gsm8k/1", "\\frac{", "unclosed_box")]
    assert "dropped 1 problems whose gold cannot be graded: gsm8k/1" in caplog.text


def test_a_source_without_any_gradable_gold_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", {"question": "Q", "answer": "#### {"})
    with pytest.raises(UsageError, match="no gold answer can be graded; run `retool data check"):
        open_source("gsm8k", path=path)


@pytest.mark.skipif(not DATA.is_dir(), reason="the published data files are not on this machine")
def test_published_files(capsys: pytest.CaptureFixture[str]) -> None:
    """The DAPO file holds each AIME problem 32 times, in a template; GSM8K's two halves share nothing."""
    aime, dapo = DATA / "aime_2024_retool.jsonl", DATA / "aime_2024_dapo.parquet"
    report = check_rows(read_rows(dapo), read_rows(aime))
    assert (report.num_rows, len(report.duplicates), len(report.overlap)) == (960, 30, 30)
    assert not report.ungradable and not report.conflicts
    train, test = read_rows(DATA / "gsm8k_train.jsonl"), read_rows(DATA / "gsm8k_test.jsonl")
    assert check_rows(train, test).clean
