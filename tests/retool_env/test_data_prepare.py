"""`retool data prepare`, `filter` and `rates`: what is kept, what is left out and listed, and that files are whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.config import EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.data import read_rows
from retool_env.data.lengths import CHUNK, filter_rows
from retool_env.data.tables import read_table, write_table
from retool_env.errors import UsageError
from retool_env.sources import ListSource, open_source
from retool_env.sources.rates import read_rates
from retool_env.tokenizer import ByteTokenizer

pq = pytest.importorskip("pyarrow.parquet")
pa = pytest.importorskip("pyarrow")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.with_name(f"{out.name}.summary.json").read_text())
    return found


DAPO = [
    {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": f"What is ${k % 4}+1$?"}],
        "reward_model": {"ground_truth": str(k % 4 + 1), "style": "rule"},
        "extra_info": {
            "index": f"u{k % 4}",
            "tools_kwargs": {"code_interpreter": {"create_kwargs": {"ground_truth": "1", "files": {"a.txt": "x"}}}},
        },
    }
    for k in range(400)
]
PLAIN = [
    {"question": "What is $0 + 1$ ?", "answer": "1.0"},  # DAPO's first, written otherwise
    {"question": "What is $1+1$?", "answer": "5"},  # contradicts DAPO's second
    {"question": "Two?", "answer": "\\frac{"},
    {"question": "Three?", "answer": "3"},
    {"question": "four", "answer": "4"},
]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_prepare(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dapo, plain = tmp_path / "dapo.parquet", write(tmp_path / "plain.jsonl", *PLAIN)
    pq.write_table(pa.Table.from_pylist(DAPO), dapo)
    held_out = write(tmp_path / "eval.jsonl", {"prompt": "Four!", "answer": "4"}, {"prompt": "Other", "answer": "0"})
    out = tmp_path / f"train.{suffix}"
    assert main(["data", "prepare", str(dapo), str(plain), "--out", str(out), "--against", str(held_out)]) == 0
    source = open_source("file", path=out)
    assert isinstance(source, ListSource)
    assert [(p.id, p.prompt, p.answer) for p in source.problems] == [
        ("math_dapo/u0", "What is $0+1$?", "1"),
        ("math_dapo/u2", "What is $2+1$?", "3"),
        ("math_dapo/u3", "What is $3+1$?", "4"),
        ("plain/3", "Three?", "3"),
    ]
    assert source.problem(0).tools_kwargs == {"code_interpreter": {"create_kwargs": {"files": {"a.txt": "x"}}}}
    report = summary(out)
    assert (report["num_rows"], report["num_repeats"], report["num_overlap"]) == (405, 397, 1)
    assert report["dropped"] == [
        ["plain/1", "5", "other_gold than math_dapo/u1"],
        ["plain/2", "\\frac{", "unclosed_box"],
        ["math_dapo/u1", "2", "other_gold"],
    ]
    assert report["removed"] == ["ground_truth"]
    left_out = report["num_repeats"] + report["num_overlap"] + len(report["dropped"])
    assert report["num_rows"] == left_out + report["num_problems"]
    printed = capsys.readouterr().out
    assert "repeats left out     397" in printed
    assert "dropped              3 (other_gold 2, unclosed_box 1)" in printed
    # What was prepared is clean, and preparing it again changes nothing.
    assert main(["data", "check", str(out)]) == 0
    again = tmp_path / f"again.{suffix}"
    assert main(["data", "prepare", str(out), "--out", str(again)]) == 0
    assert [row for _, row in read_table(again)] == [row for _, row in read_table(out)]


def test_prepared_conversations_and_facts_come_back(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A?"}]
    rows = write(tmp_path / "a.jsonl", {"messages": talk, "ground_truth": "1"})
    gsm8k = write(tmp_path / "g.jsonl", {"question": "B?", "answer": "so <<1+1=2>>2\n#### 2"})
    for suffix in ("jsonl", "parquet"):
        out = tmp_path / f"out.{suffix}"
        assert main(["data", "prepare", str(rows), str(gsm8k), "--out", str(out)]) == 0
        first, second = (open_source("file", path=out).problem(k) for k in range(2))
        assert first == open_source("file", path=rows).problem(0)
        assert second == open_source("file", path=gsm8k).problem(0)


def test_evaluation_files_are_compared_loosely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one file ``2*(3+4)`` and ``2*3+4`` are two questions; of a measured one no writing is let through."""
    train = write(
        tmp_path / "f.jsonl",
        *({"prompt": f"Compute {one}.", "answer": "14"} for one in ("2*(3+4)", "2*3+4", "2÷3", "?")),
    )
    held_out = write(tmp_path / "e.jsonl", {"prompt": r"Compute $2 \times [3+4]$.", "answer": "14"})
    out = tmp_path / "o.jsonl"
    assert main(["data", "prepare", str(train), "--out", str(out), "--against", str(held_out)]) == 0
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == ["Compute 2÷3.", "Compute ?."]
    assert main(["data", "check", str(train), "--against", str(held_out)]) == 1
    found = capsys.readouterr().out
    assert "questions that occur more than once: none" in found
    assert "f.jsonl:1, f.jsonl:2, e.jsonl:1: in both" in found


def test_max_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *({"prompt": f"Q{k}", "answer": str(k)} for k in range(9)))
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "o.jsonl"), "--max_samples", "4"]) == 0
    assert [row["answer"] for _, row in read_table(tmp_path / "o.jsonl")] == ["0", "1", "2", "3"]


MISTAKES = [
    (["prepare", "f.jsonl", "--out", "o.txt"], "--out 'o.txt': give a name that ends in .jsonl or .parquet"),
    (["prepare", "f.jsonl", "--out", "f.jsonl/o.jsonl"], "cannot be written (File exists)"),
    (["prepare", "no.jsonl", "--out", "o.jsonl"], "'no.jsonl': no such file"),
    (["prepare", "f.jsonl", "--out", "o.jsonl", "--against", "f.jsonl"], "no gold answer can be graded"),
    (["prepare", "f.jsonl"], "the following arguments are required: --out"),
    (["filter", "f.jsonl", "--out", "o.jsonl", "--max-prompt-tokens", "1"], "none of its 1 rows fits"),
    (["filter", "f.jsonl", "--out", "o.jsonl", "--workers", "0"], "'0': expected a whole number above 0"),
    (["filter", "f.jsonl", "--out", "o.jsonl", "--tokenizer", "no"], "tokenizer='no': no tokenizer.json there"),
    (["filter", "n.jsonl", "--out", "o.jsonl"], "n.jsonl:1: no column with a prompt"),
    (["rates", "no", "--out", "o.jsonl"], "no: no such trajectory file"),
    (["sft", "f.jsonl", "--out", "o.jsonl"], "f.jsonl:1: no list of objects in 'messages'"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("f.jsonl"), {"prompt": "Question?", "answer": "1"})
    write(Path("n.jsonl"), {"a": "b"})
    assert main(["data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.jsonl", "n.jsonl"]  # no half-written file


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    target = write(tmp_path / "o.jsonl", {"old": 1})
    with pytest.raises(ZeroDivisionError):
        write_table(target, ({"new": 1 // k} for k in (1, 0)))
    assert [row for _, row in read_table(target)] == [{"old": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["o.jsonl"]


ROWS = [
    {"prompt": "p" * (k % 60), "response": "r" * (k % 90), "level": k, "tags": ["a", str(k)]}
    for k in range(1, 2 * CHUNK + 40)
    if k % 60
]


def kept_rows() -> list[int]:
    """By a loop of its own: prompt and response in bytes, the prompt with what a chat puts around it."""
    around = len(ByteTokenizer().encode("\n"))
    return [row["level"] for row in ROWS if len(row["prompt"]) + around <= 40 and len(row["response"]) <= 70]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_filter_keeps_order_rows_and_types(suffix: str, workers: int, tmp_path: Path) -> None:
    path, out = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        write(path, *ROWS)
    limits = {"max_prompt_tokens": 40, "max_response_tokens": 70}
    report = filter_rows(path, out, workers=workers, **limits)
    rows = [row for _, row in read_table(out)]
    assert [row["level"] for row in rows] == kept_rows()
    assert rows == [row for row in ROWS if row["level"] in set(kept_rows())]
    assert report.num_rows == len(ROWS) == report.num_kept + len(report.long_prompts) + len(report.long_responses)
    assert report.long_prompts and report.long_responses
    if suffix == "parquet":
        assert pq.read_schema(out).equals(pq.read_schema(path))


def test_filter_measures_conversations(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "code_interpreter", "arguments": {"code": "x" * 100}}}
    user = {"role": "user", "content": "Q"}
    rows = [
        {"messages": [user, {"role": "assistant", "content": "a" * 99}], "n": 0},
        {"messages": [user, {"role": "assistant", "content": "", "tool_calls": [call]}], "n": 1},
        {"messages": [user, {"role": "tool", "content": "t" * 101}, {"role": "assistant", "content": "a"}], "n": 2},
        {"messages": [{"role": "system", "content": "s" * 120}, user], "n": 3},
        {"prompt": "Q", "turns": [{"text": "a" * 60, "outputs": ["b" * 60]}], "n": 4},
        {"prompt": "Q", "turns": [{"text": "a" * 60, "outputs": []}], "n": 5},
    ]
    report = filter_rows(
        write(tmp_path / "i.jsonl", *rows), tmp_path / "o.jsonl", max_prompt_tokens=50, max_response_tokens=100
    )
    assert [row["n"] for _, row in read_table(tmp_path / "o.jsonl")] == [0, 5]
    assert (report.long_prompts, report.long_responses) == ((3, 4), (2, 5))


def test_rates_are_what_the_episodes_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": f"Q{k}?", "answer": f"<<{k}+1=0>>\n#### {k + 1 + k % 2}"} for k in range(6)
    ]  # every other wrong
    path = write(tmp_path / "g.jsonl", *rows)
    run = tmp_path / "run"
    settings = ["agent=oracle", "problems=gsm8k", f"problems.path={path}", f"out={run}", "samples=3"]
    evaluate_agent(compose("eval", EvalConfig, settings))
    out = tmp_path / "rates.jsonl"
    assert main(["data", "rates", str(run), "--out", str(out)]) == 0
    rates = read_rates(out)
    assert {name: (rate.successes, rate.attempts) for name, rate in rates.items()} == {
        f"gsm8k/{k}": (0 if k % 2 else 3, 3) for k in range(6)
    }
    assert "6 problems, 3 always solved, 3 never" in capsys.readouterr().out
    assert main(["data", "rates", str(run), str(run / "trajectories.jsonl"), "--out", str(out)]) == 0
    assert read_rates(out)["gsm8k/0"].attempts == 6
    hard = open_source("gsm8k", path=path, rates=str(out), band=[0, 0.5])
    assert [hard.problem(k).id for k in range(hard.size or 0)] == ["gsm8k/1", "gsm8k/3", "gsm8k/5"]


def test_parquet_columns_of_two_types_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds values of different types"):
        write_table(tmp_path / "o.parquet", [{"a": 1}, {"a": "x"}])
    assert not list(tmp_path.iterdir())


def test_check_reads_json_arrays_too(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps([{"question": "Q?", "ground_truth": "42"}]))
    (row,) = read_rows(tmp_path / "f.json")
    assert (row.question, row.golds, row.where) == ("Q?", ("42",), "f.json:1")


def test_every_command_takes_the_first_n(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"What is {k} + 1?", "answer": str(k + 1)} for k in range(5)]
    raw = [
        {"messages": [{"role": "user", "content": f"*user question:* {k}?"}, {"role": "assistant", "content": said}]}
        for k, said in enumerate(5 * [r"<answer>\boxed{1}</answer>"])
    ]
    files = {"check": write(tmp_path / "p.jsonl", *rows), "sft": write(tmp_path / "s.jsonl", *raw)}
    for name in ("check", "prepare", "filter", "sft"):
        out = [] if name == "check" else ["--out", str(tmp_path / f"{name}.jsonl")]
        assert main(["data", name, str(files.get(name, files["check"])), "--max_samples", "3", *out]) == 0
    assert "p.jsonl: 3 rows" in capsys.readouterr().out
    for name in ("prepare", "filter", "sft"):
        assert len(list(read_table(tmp_path / f"{name}.jsonl"))) == 3
