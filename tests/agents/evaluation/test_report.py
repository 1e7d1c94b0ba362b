"""Several evaluations in one table, and what is said about how they were measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.evaluation.compare import compare_runs, main, measured_differently, read_samples
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.report import evaluation_rows, is_evaluation, report_evaluations
from agents.stats import statistics
from retool_env.compose import compose
from retool_env.errors import UsageError


def play(folder: Path, *overrides: str) -> Path:
    scripted = ["agent=scripted", r"agent.options={turns: ['\\boxed{7}']}"]
    sums = ["problems.split=heldout", "problems.families={add: 1}", "problems.size=40"]
    evaluate_agent(compose("eval", EvalConfig, [f"out={folder}", *scripted, *sums, "samples=2", *overrides]))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        play(folder / "a" / "seed-0"),
        play(folder / "a" / "seed-1", "seed=1"),
        play(folder / "b" / "greedy", "sampling.temperature=0", "env.max_tool_rounds=2"),
    ]


def cells(report: str, name: str) -> list[str]:
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_run_and_one_for_runs_that_differ_in_their_seed(runs: list[Path]) -> None:
    report = report_evaluations(runs)
    rows = evaluation_rows(runs)
    assert [row.name for row in rows] == ["a/seed-0", "a/seed-1", "b/greedy"]
    numbers = rows[0].found.overall
    assert numbers is not None
    first = cells(report, "a/seed-0")
    mean, low, high = (100 * value for value in (numbers.accuracy.mean, numbers.accuracy.low, numbers.accuracy.high))
    assert first[1:4] == ["scripted", "arithmetic, 40 x 2", f"{mean:.1f} [{low:.1f}, {high:.1f}]"]
    assert first[-1] == f"`{rows[0].found.run.hash[:6]}`" != cells(report, "b/greedy")[-1]
    pooled = statistics([sample for run in runs[:2] for sample in read_samples(run)])
    assert cells(report, "scripted")[1:4] == [
        "0, 1",
        "arithmetic, 40 x 4",
        f"{100 * pooled.accuracy.mean:.1f} [{100 * pooled.accuracy.low:.1f}, {100 * pooled.accuracy.high:.1f}]",
    ]
    widths = {len(line) for line in report.split("\n\n")[0].splitlines()}
    assert len(widths) == 1  # aligned, so that it can be read as it is


def test_a_copy_is_no_further_sample(runs: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    two = report_evaluations([runs[0], copy])
    assert "Pooled" not in two
    said = next(line for line in two.splitlines() if line.startswith("- "))
    assert "copy has the settings and the seed of " in said and said.endswith("no further samples, not pooled")
    three = report_evaluations([*runs[:2], copy])
    assert cells(three, "scripted") == cells(report_evaluations(runs[:2]), "scripted")
    assert "copy has the settings and the seed of " in three


def test_what_was_measured_differently_is_said(runs: list[Path]) -> None:
    report = report_evaluations(runs)
    assert "temperature 1, 8 rounds of calls, 8,192 bytes a turn and 16,384 in all" in report
    assert "budgets.max_tool_rounds=2 (not 8), sampling.temperature=0.0 (not 1.0)" in report
    assert "other than" not in report_evaluations(runs[:2])


def test_a_run_that_was_killed_has_a_row_too(runs: list[Path], tmp_path: Path) -> None:
    folder = play(tmp_path / "killed")
    path = folder / "trajectories.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:30]))
    row = cells(report_evaluations([folder]), "killed")
    assert row[-2] == "50" and row[2] == "arithmetic, 15 x 2"


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    assert not is_evaluation(tmp_path)
    with pytest.raises(UsageError, match="holds no evaluation"):
        report_evaluations([tmp_path])
    with pytest.raises(UsageError, match="nothing to report"):
        report_evaluations([])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="not the record of an evaluation"):
        report_evaluations([tmp_path])


def test_compare_warns_where_two_runs_were_measured_differently(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured_differently(runs[0], runs[1]) == []
    assert measured_differently(runs[0], runs[2]) == [
        "budgets.max_tool_rounds: 8 in A, 2 in B",
        "sampling.temperature: 1.0 in A, 0.0 in B",
    ]
    assert main([str(runs[0]), str(runs[2])]) == 0
    assert capsys.readouterr().err.count("warning: measured differently, ") == 2
    assert measured_differently(runs[0], runs[0] / "trajectories.jsonl") == []


def test_compare_refuses_other_verifiers_and_grades_both_anew(runs: list[Path], tmp_path: Path) -> None:
    one, two = (play(tmp_path / name) for name in "ab")
    run = (two / "run.json").read_text()
    code = read_code(run)
    (two / "run.json").write_text(run.replace(code, "0" * 16))
    with pytest.raises(UsageError, match=rf'not graded alike \(verifier.code: "{code}" in A, "0+" in B\); --regrade'):
        compare_runs(one, two)
    # Verdicts that another verifier gave do not survive being graded again.
    stored = (two / "trajectories.jsonl").read_text()
    (two / "trajectories.jsonl").write_text(stored.replace('"correct": true', '"correct": false'))
    assert all(not sample.correct for sample in read_samples(two))
    found = compare_runs(one, two, regrade=True)
    assert (found.first, found.difference) == (found.second, 0.0) and found.first > 0


def read_code(run: str) -> str:
    return json.loads(run)["identity"]["verifier"]["code"]


def test_compare_takes_what_both_have_of_a_run_that_was_killed(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed = play(tmp_path / "killed")
    path = killed / "trajectories.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:30]))
    found = compare_runs(killed, runs[1])
    assert (len(found.pairs), found.unplayed, found.left_out) == (15, (25, 0), ())
    assert compare_runs(runs[1], killed).unplayed == (0, 25)
    assert main([str(killed), str(runs[1])]) == 0
    assert "not played yet, and left out: 25 problems in A, 0 in B" in capsys.readouterr().out
    with pytest.raises(UsageError, match="not over the same problems"):
        compare_runs(path, runs[1])  # of a file alone nothing is known


def test_compare_refuses_other_questions_under_the_same_ids(runs: list[Path], tmp_path: Path) -> None:
    other = play(tmp_path / "other")
    run = (other / "run.json").read_text()
    digest = json.loads(run)["identity"]["problems"]["digest"]
    (other / "run.json").write_text(run.replace(digest, "0" * 32))
    with pytest.raises(UsageError, match="the same ids and golds, and other questions"):
        compare_runs(runs[0], other)
