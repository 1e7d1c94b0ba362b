"""Sweeps: cells by name, failures that end nothing else, resuming, and every launcher and sweeper that is installed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from retool_env.cli import main
from retool_env.errors import UsageError
from retool_env.sweeps import Attempt, CellRecord, SweepRecord, read_cells, read_sweep
from retool_env.sweeps.cells import locked, write_record
from retool_env.sweeps.plan import claim, folder_of
from tests.sweep_tools import by_label, processes_of, retool, wait_for

ORACLE = ["eval", "-m", "agent=oracle", "problems.split=heldout"]


def num_played(folder: Path) -> int:
    file = folder / "trajectories.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


values = st.dictionaries(st.sampled_from(["algo", "optim.lr", "model.path", "seed"]), st.text(min_size=1), min_size=1)


@given(values, values)
def test_folders_of_different_cells_differ(first: dict[str, str], second: dict[str, str]) -> None:
    one, other = (CellRecord(values=cell, overrides=()) for cell in (first, second))
    assert (one.folder == other.folder) == (list(first.items()) == list(second.items()))


@given(values)
def test_a_folder_can_be_written_on_the_command_line_as_it_is(cell: dict[str, str]) -> None:
    name = CellRecord(values=cell, overrides=()).folder
    assert "/" not in name and name not in (".", "..") and len(name) < 255
    parsed = OverridesParser.create().parse_override(f"agent.path=runs/{name}/checkpoints/final")
    assert not parsed.is_sweep_override() and parsed.value() == f"runs/{name}/checkpoints/final"


@pytest.mark.parametrize(
    ("codes", "status"), [((), "unfinished"), ((None,), "unfinished"), ((-9,), "failed"), ((2, 0), "finished")]
)
def test_status_is_that_of_the_last_attempt(codes: tuple[int | None, ...], status: str) -> None:
    attempts = tuple(Attempt(begun="2026-01-31T12:00:00", code=code) for code in codes)
    assert CellRecord(values={}, overrides=(), attempts=attempts).status == status


def test_a_folder_holds_one_sweep(tmp_path: Path) -> None:
    record = SweepRecord(command="train", axes=("algo", "seed"), fixed=("algo.steps=30",))
    claim(tmp_path, record)
    claim(tmp_path, record)
    with pytest.raises(UsageError, match=r"holds a sweep with other settings \(algo.steps=30, algo.steps=60 differ\)"):
        claim(tmp_path, record.model_copy(update={"fixed": ("algo.steps=60",)}))
    assert read_sweep(tmp_path) == record
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UsageError, match="holds a run; a sweep needs a folder of its own"):
        claim(tmp_path / "run", record)


def test_a_cell_is_run_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path) as mine, locked(tmp_path) as other:
        assert mine is not None and other is None
    with locked(tmp_path) as again:
        assert again is not None


def test_the_folder_of_a_sweep() -> None:
    assert folder_of(["a=1", "out=runs/x"]) == (Path("runs/x"), ["a=1"])
    assert folder_of(["hydra.sweep.dir=runs/x"]) == (Path("runs/x"), [])
    assert folder_of(["a=1"])[0].parts[0] == "multirun"
    for wrong in (["out=a,b"], ["out=a", "hydra.sweep.dir=b"]):
        with pytest.raises(UsageError, match="out with -m is one folder"):
            folder_of(wrong)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match=r"sweep.json' is damaged .* delete it to begin anew"):
        read_sweep(tmp_path)


def test_a_cell_that_fails_is_named_and_ends_nothing_else(tmp_path: Path) -> None:
    """And the same command again, with more values, leaves finished cells alone and tries the others."""
    line = [*ORACLE, "problems.size=2,5000,3", "out=sweep"]
    done = retool(*line, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    why = "problems.size=5000: 'add' has no more different heldout problems"
    assert f"sweep: problems.size=5000: FAILED: {why}" in done.stdout
    assert "2 of 3 cells are finished" in done.stdout and "retool report sweep" in done.stdout
    assert done.stderr.startswith("retool: 1 of 3 cells did not finish, first problems.size=5000: ")
    assert done.stderr.count("\n") == 1
    before = by_label(tmp_path / "sweep")
    assert [record.status for record in before.values()].count("finished") == 2
    assert before["problems.size=2"].score == 1.0
    line[-2] = "problems.size=2,3,4"
    again = retool(*line, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished before, kept") == 2 and "3 of 3 cells are finished" in again.stdout
    after = by_label(tmp_path / "sweep")
    assert after["problems.size=2"] == before["problems.size=2"] and len(after) == 4
    assert num_played(tmp_path / "sweep" / "size-4") == 4


def test_a_setting_that_no_cell_can_have_starts_no_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ORACLE, "seed=range(2)", "samples=0", f"out={tmp_path / 'sweep'}"]) == 2
    assert "2 of 2 cells did not finish, first seed=0: samples=0: input should be greater" in capsys.readouterr().err
    assert not list(tmp_path.glob("sweep/*/config.yaml"))


@pytest.mark.slow
def test_a_killed_sweep_takes_its_cell_with_it_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL, so nobody can clean up: the cell ends because its standard input does."""
    line = [*ORACLE, "problems.size=200,2", "problems.families={mulmod: 1}", "num_slots=1", "out=sweep"]
    sweep = subprocess.Popen([sys.executable, "-m", "retool_env.cli", *line], cwd=tmp_path, stdout=subprocess.PIPE)
    folder = tmp_path / "sweep" / "size-200"
    wait_for(lambda: num_played(folder) >= 3)
    assert len(processes_of(tmp_path / "sweep")) == 1
    sweep.kill()
    sweep.wait()
    wait_for(lambda: not processes_of(tmp_path / "sweep"))
    played = num_played(folder)
    assert 3 <= played < 200
    record = by_label(tmp_path / "sweep")["problems.size=200"]
    assert record.status == "unfinished" and record.attempts[-1].seconds is None
    line[line.index("num_slots=1")] = "num_slots=64"
    refused = retool(*line, cwd=tmp_path)
    assert refused.returncode == 2 and "num_slots=1, num_slots=64 differ" in refused.stderr
    line[line.index("num_slots=64")] = "num_slots=1"
    assert retool(*line, cwd=tmp_path).returncode == 0
    tickets = [json.loads(text)["ticket"] for text in (folder / "trajectories.jsonl").read_text().splitlines()]
    assert sorted(tickets) == list(range(200))  # none lost, none twice
    assert [attempt.code for attempt in by_label(tmp_path / "sweep")["problems.size=200"].attempts] == [None, 0]


@pytest.mark.slow
def test_joblib_runs_cells_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    line = [*ORACLE, "problems.size=2,5000,3", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "out=sweep"]
    done = retool(*line, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    records = by_label(tmp_path / "sweep")
    assert {label: record.status for label, record in records.items()} == {
        "problems.size=2": "finished", "problems.size=3": "finished", "problems.size=5000": "failed"
    }  # fmt: skip
    begun = sorted(record.attempts[0].begun for record in records.values())
    assert len(begun) == 3
    assert (
        "accuracy" in (tmp_path / "sweep" / "size-2" / "output.log").read_text()
    )  # not in the terminal, two at a time


@pytest.mark.slow
def test_submitit_runs_cells_as_local_jobs(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    line = [*ORACLE, "problems.size=2,3", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "out=sweep"]
    done = retool(*line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {record.status for record in by_label(tmp_path / "sweep").values()} == {"finished"}
    assert list((tmp_path / "sweep" / ".submitit").rglob("*_log.out"))


@pytest.mark.slow
def test_optuna_looks_for_the_best_cell_and_goes_on(tmp_path: Path) -> None:
    """With a seed the sampler asks the same questions again, and finished cells answer from their records."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    optuna = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3"]
    optuna += ["hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=5", "problems.size=range(2,30)"]
    done = retool(*ORACLE, *optuna, "out=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = by_label(tmp_path / "sweep")
    assert len(records) == 3 and all(record.score == 1.0 for record in records.values())
    assert "sweep: best: problems.size=" in done.stdout
    assert "best_value: 1.0" in (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    again = retool(*ORACLE, *optuna, "out=sweep", cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("finished before, kept") == 3, again.stdout


@pytest.mark.slow
def test_ray_runs_cells_on_its_workers(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    line = [*ORACLE, "problems.size=2,5000,3", "hydra/launcher=ray", "hydra.launcher.num_cpus=1", "out=sweep"]
    done = retool(*line, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    statuses = {label: record.status for label, record in by_label(tmp_path / "sweep").items()}
    assert statuses["problems.size=5000"] == "failed" and list(statuses.values()).count("finished") == 2


def test_a_launcher_that_is_not_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ORACLE, "problems.size=2", "hydra/launcher=jobblib", f"out={tmp_path / 'sweep'}"]) == 2
    error = capsys.readouterr().err
    assert "hydra/launcher='jobblib' is unknown" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["launcher=joblib", "launcher=submitit_slurm", "sweeper=optuna"])
def test_a_plugin_that_is_not_installed_is_told_with_its_extra(name: str, tmp_path: Path) -> None:
    """In a Python that cannot see Hydra's plugins."""
    hide = (
        "import sys; sys.modules['hydra_plugins'] = None; from retool_env.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    line = [*ORACLE, "problems.size=2", f"hydra/{name}", "out=sweep"]
    command = [sys.executable, "-c", hide, *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    extra = name.partition("=")[2].partition("_")[0]
    assert done.returncode == 2 and f"it needs the [{extra}] extra: pip install 'retool-env[{extra}]'" in done.stderr


def test_a_signal_names_its_cell(tmp_path: Path) -> None:
    attempt = Attempt(begun="2026-01-31T12:00:00", seconds=1.0, cpu_seconds=1.0, code=-signal.SIGKILL)
    record = CellRecord(values={"seed": "1"}, overrides=(), attempts=(attempt,))
    write_record(tmp_path / record.folder, record)
    assert read_cells(tmp_path) == {tmp_path / "seed-1": record}
    assert record.why == "killed by signal 9"
