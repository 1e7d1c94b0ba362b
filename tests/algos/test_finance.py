"""The financial example of ``docs/tools.md`` from its script to an evaluation, on a tiny model and a few problems."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents.loading import load_model
from agents.run_folder import read_metrics
from retool_env.cli import main
from retool_env.data.tables import read_table
from retool_env.outcome import ToolStatus
from retool_env.tokenizer import FileTokenizer
from retool_env.tools import ToolBox, ToolCall, load_tools
from retool_env.trajectory import Trajectory, read_trajectories

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
TOOLS = EXAMPLES / "finance_tools.py"
NUM = 32


def make_files(folder: Path, num: int) -> Path:
    command = [sys.executable, str(EXAMPLES / "finance_problems.py"), str(folder), "--problems", str(num)]
    subprocess.run(command, check=True)
    return folder


def test_the_script_writes_what_the_tools_return(tmp_path: Path) -> None:
    folder = make_files(tmp_path, 80)
    rows = {name: [row for _, row in read_table(folder / f"{name}.jsonl")] for name in ("train", "heldout", "traces")}
    assert [len(found) for found in rows.values()] == [80, 200, 80]
    assert {row["prompt"] for row in rows["train"]}.isdisjoint(row["prompt"] for row in rows["heldout"])
    names = [tool.spec.name for tool in load_tools(str(TOOLS))]
    assert sorted(row["tool"] for row in rows["train"]) == sorted(10 * names)
    tools = ToolBox(load_tools(str(TOOLS))).open()
    for problem, trace in zip(rows["train"], rows["traces"], strict=True):
        asked, called, said, answered = trace["messages"]
        call = called["tool_calls"][0]["function"]
        (result,) = tools.run([ToolCall(name=call["name"], arguments=call["arguments"])], seed=0)
        assert (asked["content"], call["name"]) == (problem["prompt"], problem["tool"])
        assert result.status is ToolStatus.OK
        assert result.text == said["content"] == problem["answer"] == trace["answer"]
        assert answered["content"] == f"\\boxed{{{result.text}}}"


def command(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def episodes(path: Path) -> list[Trajectory]:
    return list(read_trajectories(path))


@pytest.mark.slow
def test_cold_start_reinforcement_learning_and_evaluation(tmp_path: Path) -> None:
    """Few problems, so that a short cold start knows them; what is checked is that the parts work together."""
    data = make_files(tmp_path / "data", NUM)
    problems = f"problems.path={data / 'train.jsonl'}"
    ours = ["threads=1", f"env.tools=[{TOOLS}]", f"eval.{problems}", f"eval.problems.size={NUM}"]
    sft, grpo, played = tmp_path / "sft", tmp_path / "grpo", tmp_path / "eval"

    traces = [f"traces.path={data / 'traces.jsonl'}", "traces.epochs=60", "window=32"]
    command("sft", "experiment=finance_sft", "threads=1", f"out={sft}", *traces, *ours)
    checkpoint = sft / "checkpoints" / "final"
    template = FileTokenizer(checkpoint).chat_template
    assert template is not None
    first = episodes(sft / "eval" / "sampled.jsonl")[0].transcript.token_ids
    prompt = FileTokenizer(checkpoint).decode(first)
    assert prompt.startswith("<|im_start|>system\nTools: compound_interest loan_payment ")

    steps = ["algo.steps=2", "algo.prompts_per_step=4", "algo.group_size=4", "log_trajectories=16", problems]
    command("train", "experiment=finance_grpo", "threads=1", f"out={grpo}", f"model.path={checkpoint}", *steps, *ours)
    rollouts = episodes(grpo / "trajectories.jsonl")
    assert len(rollouts) == 2 * 16
    calls = [call for episode in rollouts for call in episode.record.calls if call.status is ToolStatus.OK]
    names = [tool.spec.name for tool in load_tools(str(TOOLS))]
    assert len(calls) >= 8 and {call.name for call in calls} <= set(names)
    for episode in rollouts:
        parts = {part.name: part for part in episode.record.reward_parts}
        assert list(parts) == ["accuracy", "tool_partial", "tool_selection"]
        assert parts["tool_partial"].raw in (0.0, 0.1, 1.0)
        right = bool(episode.record.calls) and episode.record.calls[-1].text == episode.record.problem.answer
        assert (parts["tool_partial"].raw == 1.0) == right
    assert any(episode.record.correct for episode in rollouts)
    rows = [row for row in read_metrics(grpo / "metrics.jsonl") if row["phase"] == "train"]
    assert [row["step"] for row in rows] == [0, 1]
    assert load_model(str(grpo / "checkpoints" / "final")).config.vocab_size == FileTokenizer(checkpoint).vocab_size

    settings = ["threads=1", f"agent.path={grpo / 'checkpoints' / 'final'}", f"env.tools=[{TOOLS}]", problems]
    command("eval", "experiment=finance_eval", "threads=1", f"out={played}", *settings)
    summary = json.loads((played / "summary.json").read_text())
    assert summary["statistics"]["accuracy"]["num"] == NUM
    assert len(summary["families"]) == len(names)
