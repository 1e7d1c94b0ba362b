"""Benchmarks by name: where their files are looked for, and what their problems are called."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

import pytest

from retool_env.errors import UsageError
from retool_env.sources import open_source
from retool_env.sources.benchmarks import BENCHMARKS, find_benchmark

ROW = {"data_source": "math_dapo", "problem": "What is 1 + 1?", "answer": "2", "id": 60}


def write(path: Path, num: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**ROW, "problem": f"What is {k} + 1?", "answer": str(k + 1), "id": 60 + k} for k in range(num)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_found_in_the_folder_of_the_variable_and_then_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data" / "aime_2025.jsonl", 2)
    assert open_source("aime_2025").size == 2
    monkeypatch.setenv("RETOOL_DATA", str(tmp_path / "mine"))
    assert open_source("aime_2025").size == 2
    write(tmp_path / "mine" / "aime_2025.jsonl", 3)
    assert open_source("aime_2025").size == 3


def test_problems_belong_to_the_benchmark_whatever_the_rows_say(tmp_path: Path) -> None:
    problem = open_source("aime_2024", path=write(tmp_path / "x.jsonl")).problem(0)
    assert (problem.source, problem.id) == ("aime_2024", "aime_2024/60")
    assert open_source("file", path=tmp_path / "x.jsonl").problem(0).source == "math_dapo"


def test_another_number_of_problems_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "x.jsonl", 3)
    with caplog.at_level(logging.WARNING):
        open_source("aime_2024", path=path)
        assert "3 problems, and aime_2024 was published with 30" in caplog.text
        caplog.clear()
        open_source("aime_2024", path=path, size=2)
        open_source("gsm8k", path=path, layout="math")
        open_source("aime_2024", path=write(tmp_path / "y.jsonl", 30))
        assert "published" not in caplog.text


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_not_at_hand(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the message says how to get it; with it the hub is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=rf"retool data prepare hf:\S+ --split \w+ --out data/{name}.jsonl"):
        open_source(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())
    assert find_benchmark(name) == (f"hf:{BENCHMARKS[name].hub}", BENCHMARKS[name].split)
