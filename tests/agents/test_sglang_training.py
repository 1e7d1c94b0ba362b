"""Reinforcement learning on a real SGLang server: reward rises, and a server that is killed on the way costs nothing.

The server is supervised as ``retool serve`` does it, and gets its weights from disk.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest

from agents.run_folder import read_metrics
from agents.serve import Patience, Supervisor
from agents.sglang import SGLangServer
from algos.config import TrainConfig
from algos.train import train
from retool_env.compose import compose
from retool_env.trajectory import read_trajectories
from tests.agents.real_sglang import processes_of, spec
from tests.agents.serve_tools import eventually, is_free, lives

pytestmark = pytest.mark.sglang

PROMPTS, GROUP = 12, 8
EPISODES = PROMPTS * GROUP


@pytest.fixture(scope="module")
def supervisor(cold_start: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    where = spec(cold_start, tmp_path_factory.mktemp("logs"))
    with Supervisor([where], patience=Patience(first_pause=0.1), report=print) as kept:
        assert kept.wait_ready()
        yield kept
        family = processes_of(where.port)
    assert not any(map(lives, family)) and is_free(where.port)


def config(supervisor: Supervisor, start: Path, out: Path, *overrides: str) -> TrainConfig:
    """The demo's training with smaller steps, on the family of problems that the cold start learns fastest."""
    ours = [
        "experiment=tiny_grpo",
        "threads=1",
        f"model.path={start}",
        f"out={out}",
        "agent=sglang",
        f"agent.url={supervisor.urls[0]}",
        "agent.options={patience: 1800}",
        "sync.tolerance=1e-4",
        "problems.families={digit_sum: 1}",
        f"algo.prompts_per_step={PROMPTS}",
        f"algo.group_size={GROUP}",
        "eval.every=0",
        "eval.greedy=false",
        "eval.problems.size=20",
    ]
    return compose("train", TrainConfig, [*ours, *overrides])


def rows(run: Path) -> list[dict]:
    return [row for row in read_metrics(run / "metrics.jsonl") if row["phase"] == "train"]


def check_rows(run: Path, steps: int) -> list[dict]:
    """Every step, on-policy, with all of its episodes, and with log-probabilities that are the trainer's own."""
    found = rows(run)
    assert [row["step"] for row in found] == list(range(steps))
    assert all(row["num_failed"] == 0 and row["staleness/max"] == 0 for row in found)
    print(f"max |log-prob difference| to the trainer: {max(row['logprob_gap/max'] for row in found):.1e}")
    assert max(row["logprob_gap/max"] for row in found) <= 5e-4  # float32 on both sides
    return found


def test_reward_rises(supervisor: Supervisor, cold_start: Path, tmp_path: Path) -> None:
    """Rewards are -1 and +1. Without learning, the means of three steps of 96 episodes differ by about 0.1."""
    steps = 20
    train(config(supervisor, cold_start, tmp_path / "run", f"algo.steps={steps}"))
    rewards = [row["reward/mean"] for row in check_rows(tmp_path / "run", steps)]
    print("reward by step:", *(f"{reward:.2f}" for reward in rewards))
    assert fmean(rewards[-3:]) >= fmean(rewards[:3]) + 0.4


def kill_in_flight(supervisor: Supervisor, run: Path, killed: list[int]) -> None:
    """SIGKILL to the process that holds the model, early in the rollouts of the third step."""
    client = SGLangServer(supervisor.urls[0])
    eventually(lambda: len(rows(run)) >= 2 and client.loads()[0].num_running_reqs >= EPISODES // 2, 600)
    client.close()
    killed += processes_of(int(supervisor.urls[0].rpartition(":")[2]))
    os.kill(killed[0], signal.SIGKILL)


def test_a_server_that_is_killed_in_a_rollout_comes_back_and_nothing_is_lost(
    supervisor: Supervisor, cold_start: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is started with the first weights, and must have those of the step before it is used again."""
    steps, run = 4, tmp_path / "run"
    killed: list[int] = []
    killer = threading.Thread(target=kill_in_flight, args=(supervisor, run, killed), daemon=True)
    before = supervisor.restarts[0]
    killer.start()
    with caplog.at_level(logging.WARNING, logger="agents.sglang"):
        train(config(supervisor, cold_start, run, f"algo.steps={steps}"))
    killer.join()
    assert supervisor.restarts == (before + 1,)
    assert not any(map(lives, killed))
    told = [record.getMessage() for record in caplog.records]
    assert any("is out of use" in line for line in told) and any("is in use again" in line for line in told)
    check_rows(run, steps)
    for step, path in enumerate(sorted((run / "rollouts").glob("step-*"))):
        episodes = list(read_trajectories(path))
        assert [episode.ticket for episode in episodes] == list(range(EPISODES * step, EPISODES * (step + 1)))
        versions = {version for episode in episodes for version in episode.transcript.policy_version.tolist()}
        assert versions - {-1} == {step}
    assert step == steps - 1
