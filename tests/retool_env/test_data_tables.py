"""Files as other programs leave them: encodings, long cells, deep and broken JSON, golds that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retool_env.cli import main
from retool_env.data import read_rows
from retool_env.errors import UsageError
from retool_env.sources import ListSource, open_source

MARK = b"\xef\xbb\xbf"
MARKED = [
    ("f.jsonl", b'{"prompt": "Q?", "answer": "1"}\n'),
    ("f.json", b'[{"prompt": "Q?", "answer": "1"}]'),
    ("g.json", b'{"prompt": "Q?", "answer": "1"}\n'),
    ("f.csv", b"prompt,answer\r\nQ?,1\r\n"),
]


def opened(path: Path) -> ListSource:
    source = open_source("file", path=path)
    assert isinstance(source, ListSource)
    return source


@pytest.mark.parametrize(("name", "content"), MARKED)
def test_a_byte_order_mark_is_no_part_of_the_text(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(MARK + content)
    assert [(problem.prompt, problem.answer) for problem in opened(tmp_path / name).problems] == [("Q?", "1")]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv"])
def test_another_encoding_is_told_in_one_line(
    name: str, encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(("x" * 20_000 + '{"prompt": "café", "answer": "1"}').encode(encoding))
    assert main(["data", "check", str(path)]) == 2
    told = capsys.readouterr().err
    assert f"{name}: not UTF-8" in told
    assert told.count("\n") == 1


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"prompt,answer\n{'x' * 200_000},1\n")
    assert len(opened(path).problems[0].question) == 200_000


@pytest.mark.parametrize(("name", "place"), [("f.jsonl", "f.jsonl:2"), ("f.json", "f.json")])
def test_brackets_without_end_are_named(name: str, place: str, tmp_path: Path) -> None:
    rows = ['{"prompt": "Q?", "answer": "1"}', '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"]
    path = tmp_path / name
    path.write_text("\n".join(rows) if name == "f.jsonl" else f"[{','.join(rows)}]")
    with pytest.raises(UsageError, match=rf"{place}: not JSON that can be read \(too many brackets"):
        read_rows(path)


def test_half_a_surrogate_pair_goes_through_every_command(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_text(
        r'{"prompt": "\ud83d\ude00 \ud800 \\ud800?", "answer": "1", "metadata": "{\"a\": \"\\ud800\"}"}' "\n"
    )
    for command in ("prepare", "filter"):
        out = tmp_path / f"{command}.jsonl"
        assert main(["data", command, str(path), "--out", str(out)]) == 0
        assert json.loads(out.read_text(encoding="utf-8"))["prompt"] == "😀 \ufffd \\ud800?"
    assert opened(path).problems[0].metadata["a"] == "\ufffd"
    assert main(["data", "check", str(path)]) == 0


def test_objects_and_nan_are_no_golds(tmp_path: Path) -> None:
    golds = ['{"a": 1}', "NaN", "Infinity", "[NaN, 4]", "3", '["4"]']
    path = tmp_path / "f.jsonl"
    path.write_text("".join(f'{{"prompt": "Q{k}?", "answer": {gold}}}\n' for k, gold in enumerate(golds)))
    source = opened(path)
    assert [problem.answer for problem in source.problems] == ["4", "3", "4"]
    assert [(one.id, one.reason) for one in source.dropped] == [(f"f/{k}", "empty_gold") for k in range(3)]
    assert [row.golds for row in read_rows(path)] == [("",), ("",), ("",), ("", "4"), ("3",), ("4",)]
