"""The oracle in every dialect, through real chat templates and the real sandbox; and that it never reads the gold."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.rollout import play
from agents.scripted import OracleAgent
from retool_env.cli import main
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.sources import ListSource, open_source
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import Trajectory, read_trajectories
from tests.retool_env.chat_folders import build_folder

DIALECTS = ("retool", "hermes", "markdown")


def solve(source: ListSource, dialect: str, tokenizer: str) -> list[Trajectory]:
    env = EnvConfig(dialect=dialect, tokenizer=tokenizer, max_context_tokens=6000, max_turn_tokens=1000)
    agent = OracleAgent(source.problems, load_tokenizer(tokenizer), make_dialect(dialect))
    return play(source, agent, env=env, num_episodes=source.size, num_slots=8)


@pytest.mark.parametrize("family", ["bytes", "qwen2_5", "qwen3"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_solves_problems_in_every_dialect(dialect: str, family: str, tmp_path: Path) -> None:
    source = open_source(size=10, split="heldout")
    assert isinstance(source, ListSource)
    tokenizer = family if family == "bytes" else str(build_folder(tmp_path, family))
    for trajectory in solve(source, dialect, tokenizer):
        (call,) = trajectory.record.calls
        assert call.status is ToolStatus.OK
        assert trajectory.record.correct
        assert trajectory.record.verdict is not None and trajectory.record.verdict.answer == call.text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_it_never_reads_the_gold(dialect: str) -> None:
    right = open_source(size=8, split="heldout")
    assert isinstance(right, ListSource)
    wrong = ListSource(name="wrong", problems=[p.model_copy(update={"answer": "1001"}) for p in right.problems])
    said, said_blind = solve(right, dialect, "bytes"), solve(wrong, dialect, "bytes")
    assert [t.record.turns for t in said] == [t.record.turns for t in said_blind]
    assert not any(t.record.correct for t in said_blind)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_last_of_several_lines_is_its_answer_and_errors_are_read_too(dialect: str) -> None:
    solutions = {"several": "<<0+1=1>> and <<6*7=42>>", "error": "<<1/0=1>>", "none": "It is 42."}
    problems = [
        Problem(id=name, prompt=f"Problem {name}?", answer="42", metadata={"solution": solution})
        for name, solution in solutions.items()
    ]
    played = solve(ListSource(name="x", problems=problems), dialect, "bytes")
    last = {trajectory.record.problem.id: trajectory.record.turns[-1] for trajectory in played}
    assert last == {
        "several": r"\boxed{42}",
        "error": r"\boxed{ZeroDivisionError: division by zero}",
        "none": "I cannot write a program for this.",
    }


def test_the_command_line(tmp_path: Path) -> None:
    folder, out = build_folder(tmp_path / "tokenizer", "qwen2_5"), tmp_path / "run"
    settings = [f"out={out}", f"env.tokenizer={folder}", "env.dialect=hermes", "problems.split=heldout"]
    assert main(["eval", "agent=oracle", "problems.size=5", *settings]) == 0
    trajectories = list(read_trajectories(out / "trajectories.jsonl"))
    assert len(trajectories) == 5
    assert all(trajectory.record.correct for trajectory in trajectories)
    assert all("<tool_call>" in trajectory.record.turns[0] for trajectory in trajectories)
