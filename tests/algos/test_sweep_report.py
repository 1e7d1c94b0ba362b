"""The pooled report: numbers by hand and by scipy, gaps, names of what failed, a plot that stands alone."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agents.run_folder import is_time, read_metrics
from agents.stats import Estimate
from algos.report.command import main
from algos.report.pool import Cell, pool, read_sweeps
from algos.report.runs import NOTHING, RunNumbers, accuracy, read_run
from algos.report.tables import markdown
from retool_env.errors import UsageError
from retool_env.sweeps import Attempt, CellRecord, SweepRecord
from retool_env.sweeps.cells import write_record
from retool_env.trajectory import append_trajectories
from tests.agents.episodes import make_episode
from tests.sweep_tools import by_label, processes_of, retool, subprocess_of, wait_for

BEGUN = "2026-01-31T12:00:00"


def write_cell(
    sweep: Path, values: dict[str, str], right: int, *, code: int | None = 0, steps: int = 2, seconds: float | None = 60
) -> Path:
    """A cell of which ``right`` of ten held-out problems were solved at the end, and one less on the way."""
    attempt = Attempt(begun=BEGUN, seconds=seconds, cpu_seconds=seconds, code=code, error="no GPU" if code else "")
    record = CellRecord(values=values, overrides=(), attempts=(attempt,))
    folder = sweep / record.folder
    write_record(sweep, SweepRecord(command="train", axes=tuple(values), fixed=()))
    write_record(folder, record)
    if code == 0:
        episodes = [make_episode(f"p{k}", right=k < right, ticket=k) for k in range(10)]
        (folder / "eval").mkdir()
        append_trajectories(folder / "eval" / "sampled.jsonl", episodes)
        rows = [{"phase": "train", "step": k, "accuracy/mean": 0.5} for k in range(steps)]
        rows += [{"phase": "eval", "step": k, "eval/accuracy": (right - (k == 0)) / 10} for k in (0, steps)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """GRPO solved 5, 6 and 7 of ten; of PPO one seed failed and one was killed with the sweep."""
    for seed, right in enumerate((5, 6, 7)):
        write_cell(tmp_path / "sweep", {"algo": "grpo", "seed": str(seed)}, right)
    write_cell(tmp_path / "sweep", {"algo": "ppo", "seed": "0"}, 9, seconds=30)
    write_cell(tmp_path / "sweep", {"algo": "ppo", "seed": "1"}, 0, code=3)
    write_cell(tmp_path / "sweep", {"algo": "ppo", "seed": "2"}, 0, code=None, seconds=None)
    return tmp_path / "sweep"


def test_numbers_of_a_run(sweep: Path) -> None:
    found = read_run(sweep / "algo-grpo_seed-1")
    assert (found.accuracy.mean, found.accuracy.num, found.steps) == (0.6, 10, 2)
    assert found.held_out == ((0, 0.5), (2, 0.6)) and found.training == ((0, 0.5), (1, 0.5))
    assert found.greedy == NOTHING and found.tool_rate == 0
    assert accuracy(sweep / "algo-grpo_seed-1") == 0.6 and accuracy(sweep / "algo-ppo_seed-1") is None


def test_seeds_are_pooled_and_everything_else_is_not(sweep: Path) -> None:
    grpo, ppo = pool(read_sweeps([sweep]))
    assert (grpo.label, len(grpo.finished), len(grpo.cells)) == ("algo=grpo", 3, 3)
    low, high = stats.t.interval(0.95, df=2, loc=0.6, scale=0.1 / math.sqrt(3))
    assert grpo.accuracy.mean == pytest.approx(0.6) and grpo.accuracy.num == 3
    assert (grpo.accuracy.low, grpo.accuracy.high) == (pytest.approx(low), pytest.approx(high))
    assert (grpo.spent.seconds, grpo.spent.complete) == (60, True)
    assert (ppo.label, len(ppo.finished), len(ppo.cells)) == ("algo=ppo", 1, 3)
    assert ppo.accuracy.num == 1 and ppo.accuracy.mean == 0.9
    assert ppo.accuracy.low < 0.9 < ppo.accuracy.high  # over problems


accuracies = st.lists(st.integers(0, 500).map(lambda right: right / 500), min_size=2, max_size=8)


@given(accuracies, st.randoms())
def test_the_interval_is_students_cut_to_what_is_possible(values: list[float], random) -> None:
    cells = [cell_of(value, seed) for seed, value in enumerate(values)]
    (row,) = pool(cells)
    if min(values) < max(values):
        mean, error = sum(values) / len(values), stats.sem(values)
        expected = stats.t.interval(0.95, df=len(values) - 1, loc=mean, scale=error)
        assert row.accuracy.low == pytest.approx(max(0, expected[0]), abs=1e-9)
        assert row.accuracy.high == pytest.approx(min(1, expected[1]), abs=1e-9)
    random.shuffle(cells)
    assert pool(cells)[0].accuracy.mean == pytest.approx(row.accuracy.mean)


def cell_of(value: float, seed: int) -> Cell:
    found = Estimate(mean=value, low=0, high=1, num=10)
    run = RunNumbers(accuracy=found, greedy=NOTHING, tool_rate=0.5, steps=1, held_out=(), training=())
    attempt = Attempt(begun=BEGUN, seconds=1, cpu_seconds=1, code=0)
    record = CellRecord(values={"seed": str(seed)}, overrides=(), attempts=(attempt,))
    return Cell(sweep=Path("s"), folder=Path("s") / record.folder, record=record, run=run)


def test_the_page_names_what_failed_and_marks_what_is_not_whole(sweep: Path) -> None:
    cells = read_sweeps([sweep])
    page = markdown(pool(cells), cells, title="A sweep", plot="report.svg")
    lines = page.splitlines()
    assert "| algo=grpo | 3 | 60.0% [35.2, 84.8] | 0.0% | 2 | 60 s | 60 s |" in lines
    assert any(line.startswith("| algo=ppo | 1 of 3 | 90.0% [59.6, 98.2]* |") for line in lines)
    assert "* one seed: the interval is over problems, not across seeds." in lines
    assert f"- algo=ppo seed=1: failed: no GPU ({sweep / 'algo-ppo_seed-1'})" in lines
    assert f"- algo=ppo seed=2: unfinished: was not finished ({sweep / 'algo-ppo_seed-2'})" in lines


def test_a_process_that_nobody_saw_end_makes_times_at_least(sweep: Path) -> None:
    folder = sweep / "algo-grpo_seed-0"
    record = CellRecord.model_validate_json((folder / "cell.json").read_text())
    killed = Attempt(begun=BEGUN)
    write_record(folder, record.model_copy(update={"attempts": (killed, *record.attempts)}))
    cells = read_sweeps([sweep])
    assert "| ≥ 60 s | ≥ 60 s |" in markdown(pool(cells), cells, title="A sweep", plot="report.svg")


def test_report_prints_and_writes(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep)]) == 0
    shown = capsys.readouterr().out
    assert "60.0% [35.2, 84.8]" in shown and "not finished: algo=ppo seed=1: failed: no GPU" in shown
    data = json.loads((sweep / "report.json").read_text())
    assert data["pooled"][0]["accuracy"]["mean"] == pytest.approx(0.6)
    assert [cell["status"] for cell in data["cells"]].count("finished") == 4
    assert "![" in (sweep / "report.md").read_text()
    assert main([str(sweep), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == data


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("}text")]


def test_the_plot_stands_alone_and_shows_every_combination(sweep: Path) -> None:
    main([str(sweep), "--json"])
    svg = (sweep / "report.svg").read_text()
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "href" not in svg and "url(" not in svg
    assert {"Held-out accuracy by training step", "algo=grpo", "algo=ppo"} <= set(texts(svg))
    strong = [one for one in root.iter() if one.get("class", "").startswith("line strong")]
    thin = [one for one in root.iter() if one.get("class", "").startswith("line thin")]
    assert (len(strong), len(thin)) == (2, 4)
    first, last = (float(pair.split(",")[1]) for pair in strong[0].find("{*}polyline").get("points").split())
    assert first > last  # accuracy rises, and heights count from above


def test_without_curves_the_plot_shows_final_accuracies(tmp_path: Path) -> None:
    for seed, right in enumerate((2, 4)):
        folder = write_cell(tmp_path, {"agent.path": "a<b", "seed": str(seed)}, right)
        (folder / "metrics.jsonl").unlink()
    write_cell(tmp_path, {"agent.path": "c", "seed": "0"}, 0, code=2)
    main([str(tmp_path), "--json"])
    svg = (tmp_path / "report.svg").read_text()
    assert {"agent.path=a<b", "30.0 %", "agent.path=c", "none finished"} <= set(texts(svg))
    dots = [one for one in ET.fromstring(svg).iter() if one.get("class") == "dot"]
    assert len(dots) == 2
    assert all(float(one.get("cx")) < float(other.get("cx")) for one, other in pairwise(dots))


def test_several_sweeps_stand_in_one_table_by_name(sweep: Path, tmp_path: Path) -> None:
    write_cell(tmp_path / "other", {"algo": "grpo", "seed": "0"}, 1)
    labels = [row.label for row in pool(read_sweeps([sweep, tmp_path / "other"]))]
    assert labels == ["sweep: algo=grpo", "sweep: algo=ppo", "other: algo=grpo"]


def test_mistakes(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of a sweep or of evaluations"):
        main([str(tmp_path)])
    write_record(tmp_path, SweepRecord(command="train", axes=("seed",), fixed=()))
    with pytest.raises(UsageError, match="no cell of the sweep has been begun"):
        main([str(tmp_path)])
    with pytest.raises(UsageError, match="holds no sweep; give the folder"):
        main([str(sweep), str(tmp_path / "nothing")])


def rows_of(folder: Path) -> Sequence[dict[str, object]]:
    return [{k: v for k, v in row.items() if not is_time(k)} for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_a_sweep_of_nine_cells_with_one_killed_ends_in_table_and_plot(tiny_folder: Path, tmp_path: Path) -> None:
    """Three algorithms, three seeds, two processes; the killed cell goes on to the very metrics of a run of its own."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    fixed = ["experiment=tiny_grpo", f"model.path={tiny_folder}", "trainer=smoke", "threads=1", "algo.steps=8"]
    fixed += ["logger=console", "eval.problems.size=10"]
    line = ["train", "-m", "algo=grpo,drgrpo,ppo", "seed=range(3)", *fixed, "out=sweep"]
    line += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    victim = tmp_path / "sweep" / "algo-drgrpo_seed-1"
    sweep = subprocess_of(line, tmp_path)
    wait_for(lambda: len(read_metrics(victim / "metrics.jsonl")) >= 4, seconds=300)
    os.kill(processes_of(tmp_path / "sweep", victim.name)[0], signal.SIGKILL)
    out, error = sweep.communicate()
    assert sweep.returncode == 3, error
    assert "algo=drgrpo seed=1: FAILED: killed by signal 9" in out and "8 of 9 cells are finished" in out
    assert "first algo=drgrpo seed=1: killed by signal 9; the same command with out=sweep goes on" in error
    again = retool(*line, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before, kept") == 8 and "9 of 9 cells are finished" in again.stdout
    assert [one.code for one in by_label(tmp_path / "sweep")["algo=drgrpo seed=1"].attempts] == [-9, 0]
    alone = retool("train", "algo=drgrpo", "seed=1", *fixed, "out=alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert rows_of(victim) == rows_of(tmp_path / "alone")
    done = retool("report", "sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "sweep" / "report.json").read_text())
    assert [(row["label"], row["num_finished"], row["steps"]) for row in data["pooled"]] == [
        ("algo=drgrpo", 3, 8), ("algo=grpo", 3, 8), ("algo=ppo", 3, 8)
    ]  # fmt: skip
    assert all(row["accuracy"]["num"] == 3 and row["cpu_seconds"] > 0 for row in data["pooled"])
    assert "algo=ppo" in texts((tmp_path / "sweep" / "report.svg").read_text())
