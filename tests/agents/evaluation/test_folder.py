"""The folder of an evaluation when writing goes wrong: a full disk, a kill at the start, what JSON has no words for."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agents.config import EvalConfig
from agents.evaluation.compare import read_samples
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.folder import read_run
from agents.evaluation.lines import Lines, as_line
from agents.evaluation.played import Played
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.trajectory import Trajectory, read_trajectories
from tests.agents.episodes import make_episode

SIZE = 12
SUMS = ["problems.split=heldout", "problems.families={add: 1}", f"problems.size={SIZE}"]
SEVEN = ["agent=scripted", r"agent.options={turns: ['\\boxed{7}']}"]


def overrides(folder: Path, *more: str) -> list[str]:
    return [f"out={folder}", *SEVEN, *SUMS, *more]


def evaluate(folder: Path, *more: str) -> None:
    evaluate_agent(compose("eval", EvalConfig, overrides(folder, *more)))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def tickets(folder: Path) -> list[int]:
    return sorted(trajectory.ticket for trajectory in read_trajectories(folder / "trajectories.jsonl"))


def test_a_full_disk_costs_the_episode_that_did_not_fit_and_no_other(tmp_path: Path) -> None:
    evaluate(tmp_path / "whole", "num_slots=1")
    *_, last = (tmp_path / "whole" / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    room = (tmp_path / "whole" / "trajectories.jsonl").stat().st_size - len(last) // 2
    folder = tmp_path / "full"
    command = [sys.executable, "-m", "retool_env.cli", "eval", *overrides(folder, "num_slots=1")]
    limited = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert limited.returncode == 2, limited.stderr
    told = limited.stderr.splitlines()[-1]
    assert "trajectories.jsonl' cannot be written (File too large); make room, and the same command goes on" in told
    assert len(tickets(folder)) == SIZE - 1
    assert (folder / "trajectories.jsonl").read_bytes().endswith(b"\n")
    assert (summary(folder)["num_played"], summary(folder)["complete"]) == (SIZE - 1, False)
    evaluate(folder)
    assert tickets(folder) == list(range(SIZE)) and summary(folder)["complete"]


def test_a_line_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first\ntorn")
    lines = Lines(path)
    lines.append("half a pair: \ud800")
    lines.close()
    lines.close()
    assert path.read_bytes() == b"first\nhalf a pair: \\ud800\n"
    with pytest.raises(UsageError, match=r"cannot be written \(No space left on device\)"):
        Lines(Path("/dev/full")).append("too much")
    with pytest.raises(UsageError, match=r"cannot be written \(Not a directory\)"):
        Lines(path / "b.jsonl")


def test_a_torn_line_in_the_middle_is_an_episode_that_was_not_played(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    evaluate(folder)
    path = folder / "trajectories.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:3], whole[3][:500], *whole[4:]]))  # it runs into the next line
    with caplog.at_level(logging.WARNING):
        assert len(Played.read(folder).samples) == len(read_samples(folder)) == SIZE - 2
    assert f"{path}:4 is torn and was left out" in caplog.text
    evaluate(folder)
    assert sorted(Played.read(folder).samples) == list(range(SIZE)) and summary(folder)["complete"]
    assert [launch.num_before for launch in read_run(folder).launches] == [0, SIZE - 2]


def test_a_line_of_another_version_is_no_torn_one(tmp_path: Path) -> None:
    evaluate(tmp_path / "run")
    path = tmp_path / "run" / "trajectories.jsonl"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2', 1))
    with pytest.raises(UsageError, match="schema 2, and this version reads 1"):
        Played.read(tmp_path / "run")


IMPOSSIBLE = """
from dataclasses import replace

import numpy as np

from agents.scripted import ScriptedAgent


class Impossible(ScriptedAgent):
    def __init__(self, setup, turns):
        super().__init__(lambda context, turn: turns[0], setup.tokenizer)

    def act(self, request):
        generation = super().act(request)
        return replace(generation, logprobs=np.full(len(generation.token_ids), -np.inf, dtype=np.float32))
"""


def test_what_json_has_no_words_for_is_a_failure_of_its_episode(tmp_path: Path) -> None:
    """An engine may call a token impossible that it has sampled."""
    (tmp_path / "impossible.py").write_text(IMPOSSIBLE)
    more = [f"agent.name={tmp_path / 'impossible.py'}:Impossible", "max_failed_share=1"]
    evaluate(tmp_path / "run", *more)
    assert (summary(tmp_path / "run")["num_played"], summary(tmp_path / "run")["num_failures"]) == (0, 2 * SIZE)
    for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["outcome"] == "cancelled" and row["failure"].startswith("the episode cannot be written as JSON")


def test_a_failure_that_stands_for_an_episode_says_what_was_asked() -> None:
    episode = make_episode("p", right=True, ticket=3)
    episode.transcript.logprobs[-1] = -float("inf")
    kept, line = as_line(episode)
    assert Trajectory.from_json(line).record.problem == episode.record.problem
    assert (kept.ticket, kept.record.verdict, kept.record.outcome.failed) == (3, None, True)
    assert len(kept.transcript) == episode.transcript.prompt_length


def test_a_kill_at_the_very_start_refuses_nothing(tmp_path: Path) -> None:
    """Whichever files were made by then."""
    begun, older = tmp_path / "begun", tmp_path / "older"
    evaluate(begun)
    for name in ("trajectories.jsonl", "failures.jsonl", "summary.json"):
        (begun / name).unlink()
    older.mkdir()
    for name in ("trajectories.jsonl", "failures.jsonl"):
        (older / name).touch()
    for folder in (begun, older):
        assert not Played.read(folder).samples
        evaluate(folder)
        assert tickets(folder) == list(range(SIZE))
    (older / "run.json").unlink()
    with pytest.raises(UsageError, match=r"is no evaluation of this version \(trajectories.jsonl without run.json\)"):
        evaluate(older)


def test_run_json_is_there_before_the_files_of_episodes(tmp_path: Path) -> None:
    (tmp_path / "run" / "trajectories.jsonl").mkdir(parents=True)  # so that it cannot be opened
    with pytest.raises(UsageError, match=r"trajectories.jsonl' cannot be written \(Is a directory\)"):
        evaluate(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "odd" / ".lock").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"odd' cannot be written \(Is a directory\)"):
        evaluate(tmp_path / "odd")
