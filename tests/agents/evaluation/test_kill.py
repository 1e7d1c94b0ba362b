"""``retool eval`` of an endpoint in another process, killed with SIGKILL again and again: nothing lost or twice."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.evaluation.folder import read_run
from retool_env.sources.arithmetic import fixed_set
from retool_env.trajectory import read_trajectories

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
PROBLEMS, SAMPLES, CONCURRENCY = 30, 32, 64
KILLED_AT = (120, 400, 760)  # episodes that are there, at least


@pytest.fixture(scope="module")
def endpoint(cold_start: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.agents.checkpoint_server", str(cold_start)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline()
        assert greeting.startswith("serving http://"), greeting
        yield greeting.split()[1]
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As AIME: ``input``, ``output``, whole numbers below a thousand."""
    source = fixed_set(PROBLEMS, split="heldout", families={"mulmod": 1, "powmod": 1, "gcd": 1})
    rows = [{"input": source.problem(k).question, "output": source.problem(k).answer} for k in range(PROBLEMS)]
    path = tmp_path_factory.mktemp("data") / "aime_like.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def start(endpoint: str, problems: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command of the recipe guide; its model knows no tools and needs no telling."""
    flags = ["--agent", "openai", "--base-url", endpoint, "--out", str(out), "--concurrency", str(CONCURRENCY), *more]
    settings = ["agent.options={structured: false}", "env.instructions=false", "env.traceback=short"]
    command = [sys.executable, "-m", "retool_env.cli", "eval", str(problems), *flags, *settings]
    return subprocess.Popen(command, cwd=out.parent, stdout=subprocess.DEVNULL)


def finish(endpoint: str, problems: Path, out: Path, *more: str) -> None:
    process = start(endpoint, problems, out, *more)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        assert process.wait(300) == 0


def kill_at(num: int, process: subprocess.Popen[bytes], path: Path) -> bytes:
    """Kill it once so many episodes are there; returns what its file held then, but for a torn line."""
    deadline = time.monotonic() + 200
    while not path.is_file() or path.read_bytes().count(b"\n") < num:
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < deadline, "it is stuck"
        time.sleep(0.02)
    process.kill()
    assert process.wait(30) == -9
    left = path.read_bytes()
    return left[: left.rfind(b"\n") + 1]


def tickets(out: Path) -> list[int]:
    return sorted(trajectory.ticket for trajectory in read_trajectories(out / "trajectories.jsonl"))


def numbers(out: Path) -> dict:
    """All of ``summary.json`` that a seed decides."""
    return {key: value for key, value in json.loads((out / "summary.json").read_text()).items() if key != "time"}


def killed_three_times(endpoint: str, problems: Path, out: Path, *more: str) -> None:
    for num in KILLED_AT:
        kept = kill_at(num, start(endpoint, problems, out, *more), out / "trajectories.jsonl")
        assert kept.count(b"\n") < PROBLEMS * SAMPLES
    finish(endpoint, problems, out, *more)
    assert (out / "trajectories.jsonl").read_bytes().startswith(kept), "what was there has changed"
    assert tickets(out) == list(range(PROBLEMS * SAMPLES))
    launches = read_run(out).launches
    assert [launch.ended is None for launch in launches] == [True, True, True, False]
    assert all(launch.num_before >= num for launch, num in zip(launches[1:], KILLED_AT, strict=True))


def test_a_greedy_run_ends_with_the_numbers_of_one_that_was_never_stopped(
    endpoint: str, problems: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(endpoint, problems, whole, "--temperature", "0")
    killed_three_times(endpoint, problems, stopped, "--temperature", "0")
    assert tickets(stopped) == tickets(whole)
    assert numbers(stopped) == numbers(whole)
    for name in ("misses.md", "failures.jsonl"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    found = numbers(whole)
    assert (found["num_played"], found["complete"], found["num_failures"]) == (960, True, 0)
    assert found["statistics"]["num_samples"] == SAMPLES and found["unit"] == "tokens"
    assert found["statistics"]["sample_std"] == 0  # deterministic indeed


def test_a_sampled_run_has_every_sample_once(endpoint: str, problems: Path, tmp_path: Path) -> None:
    """At the guide's temperature; the endpoint's answers depend on who is in its batch."""
    out = tmp_path / "stopped"
    killed_three_times(endpoint, problems, out)
    found = numbers(out)
    assert (found["num_played"], found["complete"]) == (960, True)
    assert found["identity"]["sampling"]["temperature"] == 0.7
    assert 0 < found["statistics"]["accuracy"]["mean"] < 1 and found["statistics"]["num_calls"] > 100
    assert found["metrics"]["val-core/aime_like/acc/mean@32"] == found["statistics"]["accuracy"]["mean"]
