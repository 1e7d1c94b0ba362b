"""Problems from a class in a file, and what is said when it is none."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import pytest

import retool_env  # noqa: F401  registers the ids
from retool_env.errors import UsageError
from retool_env.sources import open_source

SQUARES = """
from retool_env.problems import Problem

class Squares:
    name = "squares"
    def __init__(self, *, split="train", seed=0, size=None):
        self.size, self.first = size, seed + 100 * (split == "heldout")
    def problem(self, index):
        n = self.first + index
        return Problem(id=f"squares/{n}", prompt=f"What is {n} * {n}?", answer=str(n * n))

class Nothing(Squares):
    def __init__(self, **settings):
        self.size = 0

class Plain(Squares):
    def __init__(self):
        pass

class NoProblem:
    name, size = "none", 3
    def __init__(self, **settings): pass

class Rows(Squares):
    def problem(self, index):
        return {"prompt": "?"}

class Broken(Squares):
    def problem(self, index):
        return {}[index]

number = 3
"""


@pytest.fixture
def squares(tmp_path: Path) -> str:
    path = tmp_path / "squares.py"
    path.write_text(SQUARES)
    return str(path)


def test_a_class_in_a_file(squares: str) -> None:
    endless = open_source(f"{squares}:Squares", seed=5)
    assert (endless.name, endless.size, endless.problem(2).answer) == ("squares", None, "49")
    few = open_source(f"{squares}:Squares", split="heldout", size=3)
    assert (few.size, few.problem(0).id) == (3, "squares/100")
    env = gymnasium.make("retool/MathTool-v0", problems={"name": f"{squares}:Squares", "size": 3})
    assert env.reset(options={"index": 2})[1]["problem_id"] == "squares/2"
    env.close()


def test_pass_rates_choose_among_its_problems(squares: str, tmp_path: Path) -> None:
    rates = [{"id": f"squares/{n}", "successes": n, "attempts": 4} for n in range(4)]
    bank = tmp_path / "rates.jsonl"
    bank.write_text("".join(json.dumps(row) + "\n" for row in rates))
    chosen = open_source(f"{squares}:Squares", size=4, rates=str(bank), band=(0.2, 0.6))
    assert [chosen.problem(k).id for k in range(chosen.size or 0)] == ["squares/1", "squares/2"]
    with pytest.raises(UsageError, match="never ends, and has no pass rates"):
        open_source(f"{squares}:Squares", rates=str(bank), band=(0.2, 0.6))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Square", "no class or function 'Square' in it; did you mean 'Squares'?"),
        ("number", "no class or function 'number' in it"),
        ("Nothing", "it has no problem (size=0)"),
        ("Plain", "TypeError: Plain.__init__() got an unexpected keyword argument 'split'"),
        ("NoProblem", "it lacks problem; see retool_env.feeder.ProblemSource"),
        ("Rows", "problem(0) is a dict; return a retool_env.problems.Problem"),
        ("Broken", "problem(0) raised KeyError: 0"),
    ],
)
def test_mistakes(squares: str, name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(f"{squares}:{name}", size=3)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes(squares: str) -> None:
    with pytest.raises(UsageError, match=r"problems='nowhere.py': no such file"):
        open_source("nowhere.py:Squares")
    with pytest.raises(UsageError, match=r"or give path/to/file.py:Class"):
        open_source("squaress")
    with pytest.raises(UsageError, match="reads no file"):
        open_source(f"{squares}:Squares", path="rows.jsonl")


def test_an_installed_name(squares: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "squares-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squares\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[retool.datasets]\nsquares = squares:Squares\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_source("squares", size=2).problem(1).id == "squares/1"
