"""The published files themselves: every row is loaded, and every gold is validated or listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retool_env.data.tables import count_rows, read_table
from retool_env.sources import ListSource, open_source
from retool_env.trajectory import read_trajectories
from retool_env.verifier import verify

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the published data files are not at {DATA}")

# rows, unique problems, golds that cannot be graded
FILES = {
    "aime_2024_dapo.parquet": (960, 30, 0),
    "aime_2024_retool.jsonl": (30, 30, 0),
    "aime_2025_retool.jsonl": (30, 30, 0),
    "math_500.jsonl": (500, 500, 0),
    "gsm8k_test.jsonl": (1319, 1319, 0),
    "gsm8k_train.jsonl": (7473, 7473, 0),
    "simplelr_math_35_train.parquet": (8523, 8516, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_every_gold_is_validated_or_listed(name: str) -> None:
    path = DATA / name
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        assert count_rows(path) == FILES[name][0]
    source = open_source("file", path=path)
    assert isinstance(source, ListSource)
    assert (source.num_rows, source.size, len(source.dropped)) == FILES[name]
    assert source.num_rows == source.size + source.num_repeats + len(source.dropped)
    assert len({problem.id for problem in source.problems}) == source.size
    for problem in source.problems[:: max(1, source.size // 50)]:
        assert verify(f"\\boxed{{{problem.answer}}}", problem.answer).correct
        assert "Answer:" not in problem.question.rsplit("\n", 1)[-1]
        assert "<|im_start|>" not in problem.question


def test_both_layouts_of_aime_2024_hold_the_same_problems() -> None:
    pytest.importorskip("pyarrow")
    dapo, plain = (open_source("file", path=DATA / f"aime_2024_{name}") for name in ("dapo.parquet", "retool.jsonl"))
    golds = [sorted(int(source.problem(k).answer) for k in range(30)) for source in (dapo, plain)]
    assert golds[0] == golds[1]
    raw = {row["extra_info"]["raw_problem"].strip() for _, row in read_table(DATA / "aime_2024_dapo.parquet")}
    assert {dapo.problem(k).question for k in range(30)} == raw  # the file's own question, out of the template


def test_the_oracle_evaluation_of_the_dapo_file(tmp_path: Path) -> None:
    """960 rows are 30 problems, and the command says so."""
    pytest.importorskip("pyarrow")
    path = DATA / "aime_2024_dapo.parquet"
    command = [sys.executable, "-m", "retool_env.cli", "eval", "agent=oracle", "problems=file", f"problems.path={path}"]
    done = subprocess.run(
        [*command, f"out={tmp_path / 'run'}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "960 rows, 30 unique problems; 930 repeats left out" in done.stderr
    assert len(list(read_trajectories(tmp_path / "run" / "trajectories.jsonl"))) == 30
