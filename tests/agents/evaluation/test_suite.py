"""``retool eval --suite``: which cells a file means, and that a failing one ends nothing but itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agents.config import EvalConfig
from agents.evaluation.folder import read_run
from agents.evaluation.suite import read_suite, run_suite
from retool_env.compose import compose
from retool_env.errors import InfrastructureError, UsageError

PROBLEMS = '{"prompt": "What is 3 + 4?", "answer": "7"}\n{"prompt": "What is 3 + 5?", "answer": "8"}\n'
CRASHING = """
import os, signal

class Crashing:
    def __init__(self, setup, *, how):
        self.how = how

    def act(self, request):
        if self.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise KeyError("an agent's own mistake")
"""
SUITE = r"""
out: {out}
agents:
  seven: {{name: scripted, options: {{turns: ['\boxed{{7}}']}}}}
  eight: {{name: scripted, options: {{turns: ['\boxed{{8}}']}}, env.max_tool_rounds: 1}}
  killed: {{name: "{code}:Crashing", options: {{how: killed}}}}
  raising: {{name: "{code}:Crashing", options: {{how: raising}}}}
datasets:
  - {problems}
  - {{name: arithmetic, problems.size: 5, samples: 1, label: sums}}
seeds: [0, 1]
settings: {{samples: 2, sampling.temperature: 0}}
"""


def write(tmp_path: Path, text: str = SUITE) -> Path:
    (tmp_path / "two.jsonl").write_text(PROBLEMS)
    (tmp_path / "own.py").write_text(CRASHING)
    names = {"out": tmp_path / "suite", "code": tmp_path / "own.py", "problems": tmp_path / "two.jsonl"}
    path = tmp_path / "suite.yaml"
    path.write_text(text.format(**names))
    return path


def test_the_cells_of_a_file(tmp_path: Path) -> None:
    cells = read_suite(write(tmp_path), ["num_slots=3", f"out={tmp_path / 'other'}"])
    assert len(cells) == 4 * 2 * 2
    assert [cell.name for cell in cells[:5]] == [
        "seven/two/seed-0", "seven/two/seed-1", "seven/sums/seed-0", "seven/sums/seed-1", "eight/two/seed-0",
    ]  # fmt: skip
    configs = {cell.name: compose("eval", EvalConfig, cell.overrides) for cell in cells[:8]}
    first, sums = configs["eight/two/seed-1"], configs["seven/sums/seed-0"]
    assert first.agent.options == {"turns": [r"\boxed{8}"]} and first.agent.name == "scripted"
    assert (first.seed, first.samples, first.num_slots, first.sampling.temperature) == (1, 2, 3, 0.0)
    assert (first.env.max_tool_rounds, sums.env.max_tool_rounds) == (1, 8)
    assert (first.problems.path, sums.problems.name) == (str(tmp_path / "two.jsonl"), "arithmetic")
    assert (sums.problems.size, sums.samples) == (5, 1)  # the data set's own settings count more than the common ones
    assert first.out == str(tmp_path / "other" / "eight" / "two" / "seed-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents: {{a: {{}}}}\ndatasets: [arithmetic]\n", "suite.yaml.out: field required"),
        ("out: x\nagents: {{}}\ndatasets: [arithmetic]\n", "agents"),
        ("out: x\nagents: {{a: {{}}}}\ndatasets: [arithmetc]\n", "DATASET 'arithmetc' is unknown; did you mean"),
        ("out: x\nagents: {{a: {{}}}}\ndatasets: [arithmetic, arithmetic]\n", "a/arithmetic/seed-0 is there twice"),
        ("out: x\nagents: {{a: {{}}}}\ndatasets: [{{samples: 3}}]\n", "has no name"),
        ("out: x\nagents: {{a: {{'b c': 1}}}}\ndatasets: [arithmetic]\n", "'agent.b c' is no key"),
        ("out: x\nagent: {{}}\ndatasets: [arithmetic]\n", "suite.yaml.agents: field required"),
        ("- 1\n", "expected a mapping"),
        ("out: [\n", "cannot be read"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as told:
        read_suite(write(tmp_path, text))
    assert message in str(told.value) and "\n" not in str(told.value)


def of_agents(tmp_path: Path, *names: str) -> Path:
    """The suite with these agents alone, one data set and one seed."""
    values = yaml.safe_load(write(tmp_path).read_text())
    kept = {name: values["agents"][name] for name in names}
    short = {**values, "agents": kept, "datasets": values["datasets"][:1], "seeds": [0]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(short, sort_keys=False))
    return tmp_path / "suite.yaml"


def test_a_cell_that_is_killed_is_named_and_the_others_are_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InfrastructureError, match="1 of 2 cells failed: killed/two/seed-0"):
        run_suite(str(of_agents(tmp_path, "killed", "seven")), ["num_slots=2"])
    report = (tmp_path / "suite" / "suite.md").read_text()
    assert "| seven/two/seed-0 " in report
    assert "cell killed/two/seed-0 failed: its process ended with -9" in report
    assert report in capsys.readouterr().out


@pytest.mark.slow
def test_a_suite_goes_on(tmp_path: Path) -> None:
    file = of_agents(tmp_path, "seven", "eight", "raising")
    command = [sys.executable, "-m", "retool_env.cli", "eval", "--suite", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1] == "retool: 1 of 3 cells failed: raising/two/seed-0"
    assert "an agent's own mistake" in done.stderr  # with the whole traceback
    report = (tmp_path / "suite" / "suite.md").read_text()
    assert """cell raising/two/seed-0 failed: KeyError: "an agent's own mistake\"""" in report
    fixed = CRASHING.replace("raise KeyError", "return write_turn('7', request, ByteTokenizer()) #")
    imports = "from agents.writing import write_turn\nfrom retool_env.tokenizer import ByteTokenizer\n"
    (tmp_path / "own.py").write_text(imports + fixed)
    # It is another agent now, and its folder has a beginning of the old one in it.
    (tmp_path / "suite" / "raising").rename(tmp_path / "raising")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "failed" not in (tmp_path / "suite" / "suite.md").read_text()
    assert len(read_run(tmp_path / "suite" / "seven" / "two" / "seed-0").launches) == 1
