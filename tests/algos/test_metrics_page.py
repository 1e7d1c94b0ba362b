"""``docs/metrics.md`` has every name that runs log, and no other; and those of verl that it promises."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agents.run_folder import read_metrics
from algos.call_metrics import ERRORS, call_metrics, error_class
from algos.config import SftConfig, TrainConfig
from algos.sft import sft
from algos.train import train
from retool_env.compose import compose
from retool_env.outcome import ToolStatus
from retool_env.record import CallRecord
from tests.algos.test_groups import trajectory
from tests.algos.test_learn import advantage, config_of, learnt

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
PLACES = ("PART", "FAMILY", "OUTCOME", "STATUS", "STAGE", "SOURCE", "K", "N")
TRAIN = [
    "experiment=tiny_grpo",
    "threads=1",
    "algo=ppo",
    "algo.prompts_per_step=4",
    "algo.group_size=2",
    "algo.steps=1",
    "algo.rescore=true",
    "algo.kl.coef=0.01",
    "env.reward={accuracy: 1.0, tool_partial: 0.1}",
    "problems.size=3",
    "eval.every=1",
    "eval.problems.size=3",
    "eval.samples=4",
]
SFT = ["experiment=tiny_sft", "threads=1", "traces.num=60", "eval.problems.size=2"]


def documented() -> dict[str, re.Pattern[str]]:
    """Every name of the tables, alternatives written out, and what matches it."""
    text = PAGE.read_text(encoding="utf-8")
    cells = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    names = [name for cell in cells for written in re.findall(r"`([^`]+)`", cell) for name in expanded(written)]
    return {name: pattern_of(name) for name in names}


def expanded(written: str) -> list[str]:
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", written)]
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def pattern_of(name: str) -> re.Pattern[str]:
    split = re.split(rf"\b({'|'.join(PLACES)})\b", name)
    return re.compile("".join(r"[^/@]+" if part in PLACES else re.escape(part) for part in split))


def call(status: ToolStatus, text: str = "1") -> CallRecord:
    return CallRecord(turn=0, name="code_interpreter", code="print(1)\nprint(2)", status=status, text=text)


@pytest.fixture(scope="module")
def rows(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Of a run with a critic, a reference and evaluations, and of a cold start."""
    out = tmp_path_factory.mktemp("runs")
    train(compose("train", TrainConfig, [*TRAIN, f"model.path={tiny_folder}", f"out={out / 'train'}"]))
    sft(compose("sft", SftConfig, [*SFT, f"model.path={tiny_folder}", f"out={out / 'sft'}"]))
    return [row for run in ("train", "sft") for row in read_metrics(out / run / "metrics.jsonl")]


@pytest.fixture(scope="module")
def logged(rows: list[dict], tiny_folder: Path) -> set[str]:
    """Their names, those of gdpo, and those of calls, which random weights do not make."""
    made = trajectory(1.0)
    made = replace(made, record=replace(made.record, calls=(call(ToolStatus.OK),)))
    names = {name for row in [*rows, call_metrics([made])] for name in row}
    return (names | set(learnt(config_of(tiny_folder, algo=advantage("gdpo")))[1])) - {"phase", "step"}


def test_every_name_is_on_the_page(logged: set[str]) -> None:
    patterns = documented().values()
    assert [name for name in sorted(logged) if not any(p.fullmatch(name) for p in patterns)] == []


def test_every_name_on_the_page_is_logged(logged: set[str]) -> None:
    missing = [name for name, pattern in documented().items() if not any(map(pattern.fullmatch, logged))]
    assert missing == []


def test_seconds_and_shares_are_those_of_the_step(rows: list[dict]) -> None:
    step = next(row for row in rows if row["phase"] == "train" and "reward/mean" in row)
    loop = "timing_s/agent_loop"
    assert 0 < step[f"{loop}/generate_sequences/mean"] <= step["timing_s/gen"]
    assert step[f"{loop}/slowest/generate_sequences"] <= step[f"{loop}/generate_sequences/max"]
    assert step["timing_per_token_ms/update_actor"] == pytest.approx(
        1000 * step["timing_s/update_actor"] / step["perf/total_num_tokens"]
    )
    sampled = step["num_action_tokens/mean"] * step["num_episodes"]
    assert step["timing_per_token_ms/gen"] == pytest.approx(1000 * step["timing_s/gen"] / sampled)
    assert step["training/global_step"] == 1 and step["training/epoch"] == 1, "four problems of three"
    assert step["groups/zero_spread_share"] == step["groups/zero_spread"] / step["groups/total"]
    assert step["response_length/max"] >= step["num_action_tokens/mean"]
    assert step["critic/rewards/mean"] == pytest.approx(step["critic/score/mean"])


def test_names_are_unique() -> None:
    text = PAGE.read_text(encoding="utf-8")
    cells = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    names = [name for cell in cells for written in re.findall(r"`([^`]+)`", cell) for name in expanded(written)]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"num_skipped_updates"}, "which a cold start has too"


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (call(ToolStatus.OK), "none"),
        (call(ToolStatus.ERROR, 'File "main.py", line 1\n    1 +\nSyntaxError: invalid syntax'), "syntax"),
        (call(ToolStatus.ERROR, "IndentationError: unexpected indent\n"), "syntax"),
        (call(ToolStatus.ERROR, "SyntaxError: printed by the program\nValueError: 3"), "runtime"),
        (call(ToolStatus.ERROR, ""), "runtime"),
        (call(ToolStatus.TIMEOUT), "timeout"),
        (call(ToolStatus.MEMORY), "limit"),
        (call(ToolStatus.OUTAGE), "infrastructure"),
        (call(ToolStatus.MALFORMED), "invalid"),
    ],
)
def test_errors_by_class(made: CallRecord, kind: str) -> None:
    assert error_class(made) == kind


def test_every_status_but_ok_is_an_error_of_some_class() -> None:
    calls = tuple(call(status) for status in ToolStatus)
    made = trajectory(1.0)
    metrics = call_metrics([replace(made, record=replace(made.record, calls=calls))])
    assert sum(metrics[f"tool_error/{name}"] for name in ERRORS) == pytest.approx(1 - metrics["tool_status/ok"])
    assert metrics["tool_calls/code_lines/mean"] == 2
