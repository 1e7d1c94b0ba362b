"""The main job at full length, with its bars; and the same at a size that runs with every test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from algos.config import DemoConfig
from algos.demo import demo
from retool_env.compose import compose
from retool_env.errors import UsageError

SMALL = [
    "sft.traces.num=600",
    "grpo.algo.steps=2",
    "strategic.algo.steps=2",
    *(f"{stage}.eval.problems.size=10" for stage in ("sft", "grpo", "strategic")),
    *(f"{stage}.algo.prompts_per_step=2" for stage in ("grpo", "strategic")),
    *(f"{stage}.algo.group_size=2" for stage in ("grpo", "strategic")),
]


def run(out: Path, *overrides: str) -> dict:
    report = demo(compose("demo", DemoConfig, [f"out={out}", *overrides]))
    assert report == out / "report.html"
    return json.loads((out / "summary.json").read_text())


def test_a_small_demo_leaves_its_page_and_goes_on_where_it_was(tmp_path: Path, capsys) -> None:
    first = run(tmp_path / "demo", *SMALL)
    assert list(first) == ["sft", "grpo", "strategic"]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "</html>" in page
    assert "After GRPO" in page
    (tmp_path / "demo" / "strategic" / "eval" / "greedy.jsonl").unlink()
    capsys.readouterr()
    (tmp_path / "demo" / "report.html").unlink()
    assert run(tmp_path / "demo", *SMALL) == first
    said = capsys.readouterr().out
    assert "sft: finished already, kept" in said
    assert "strategic: finished already" not in said
    with pytest.raises(UsageError, match=r"another configuration \(seed"):
        run(tmp_path / "demo", "seed=1", *SMALL)


@pytest.mark.slow
def test_the_demo_meets_its_bars(tmp_path: Path) -> None:
    table = run(tmp_path / "demo")
    mean = {stage: {name: row["mean"] for name, row in numbers.items()} for stage, numbers in table.items()}
    assert all(row["num"] == 500 for numbers in table.values() for name, row in numbers.items() if "accuracy" in name)
    assert 0.15 <= mean["sft"]["accuracy_sampled"] <= 0.60
    assert mean["grpo"]["accuracy_sampled"] >= 0.85
    assert mean["grpo"]["accuracy_greedy"] >= 0.97
    assert mean["strategic"]["accuracy_greedy"] >= 0.95
    for mode in ("sampled", "greedy"):
        assert mean["grpo"][f"tool_rate_hard_{mode}"] >= 0.95
        assert mean["strategic"][f"tool_rate_easy_{mode}"] <= 0.10
        assert mean["strategic"][f"tool_rate_hard_{mode}"] >= 0.95
