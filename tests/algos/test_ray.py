"""Rollouts by two Ray workers on this machine: the same episodes as here, and none lost when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.base import Sampling
from agents.config import AgentConfig
from agents.gate import Gate
from agents.player import GroupPlayer, Plan
from agents.registry import AgentSetup, make_agent
from algos.config import RayConfig
from algos.ray_rollouts import RayRollouts
from retool_env.config import EnvConfig, ProblemsConfig
from retool_env.sources import open_source

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'retool-env[ray]'")
pytestmark = pytest.mark.slow

ORACLE = AgentConfig(name="oracle")
GROUPS, SIZE = 3, 2  # of a step, of a group


@pytest.fixture
def plan() -> Plan:
    problems = ProblemsConfig(split="heldout", size=40)
    env = EnvConfig(instructions=False, tokenizer="bytes")
    return Plan(seed=3, group_size=SIZE, problems=problems, env=env, sampling=Sampling())


@pytest.fixture
def rollouts(plan: Plan) -> Iterator[RayRollouts]:
    gate = Gate(tickets_per_step=GROUPS * SIZE, staleness=1)
    made = RayRollouts(plan, ORACLE, RayConfig(workers=2, groups=2), gate=gate, groups_per_step=GROUPS, threads=1)
    try:
        yield made
    finally:
        made.close()


def here(plan: Plan, group: int):
    source = open_source(**plan.problems.model_dump())
    return GroupPlayer(plan, make_agent(AgentSetup(config=ORACLE, env=plan.env, source=source))).play(group)


def test_workers_play_what_this_process_would(plan: Plan, rollouts: RayRollouts) -> None:
    played = []
    for step in range(3):
        rollouts.set_version(step)
        played += rollouts.collect(step)
    tickets = [trajectory.ticket for trajectory in played]
    assert len(set(tickets)) == len(tickets) == 3 * GROUPS * SIZE
    for trajectory in here(plan, played[0].group):
        twin = next(other for other in played if other.ticket == trajectory.ticket)
        assert twin.transcript.token_ids.tolist() == trajectory.transcript.token_ids.tolist()
        assert twin.record.reward == trajectory.record.reward


def test_a_killed_worker_loses_nothing(rollouts: RayRollouts) -> None:
    rollouts.set_version(0)
    victim = ray.get(rollouts._workers[0].actor.pid.remote())
    killer = threading.Thread(target=lambda: (time.sleep(0.3), os.kill(victim, signal.SIGKILL)))
    killer.start()
    played = []
    for step in range(6):
        rollouts.set_version(step)
        played += rollouts.collect(step)
    killer.join()
    tickets = [trajectory.ticket for trajectory in played]
    assert len(set(tickets)) == len(tickets) == 6 * GROUPS * SIZE
    assert all(trajectory.record.correct for trajectory in played)
    assert ray.get(rollouts._workers[0].actor.pid.remote()) != victim


def test_a_run_goes_on_where_it_was(plan: Plan, rollouts: RayRollouts) -> None:
    rollouts.set_version(0)
    first = rollouts.collect(0)
    state = rollouts.state_dict()
    gate = Gate(tickets_per_step=GROUPS * SIZE, staleness=1)
    again = RayRollouts(plan, ORACLE, RayConfig(workers=1), gate=gate, groups_per_step=GROUPS, threads=1)
    try:
        again.load_state_dict(state)
        again.set_version(1)
        second = again.collect(1)
    finally:
        again.close()
    assert not {t.ticket for t in first} & {t.ticket for t in second}


def test_training_with_workers_that_hold_the_engine(cold_start: Path, tmp_path: Path) -> None:
    from agents.run_folder import read_metrics
    from algos.config import TrainConfig
    from algos.train import train
    from retool_env.compose import compose

    overrides = [
        "experiment=tiny_grpo",
        f"model.path={cold_start}",
        f"out={tmp_path / 'run'}",
        "deterministic=false",
        "rollout.ray.workers=2",
        "rollout.ray.groups=4",
        "algo.steps=2",
        "algo.prompts_per_step=6",
        "eval.every=0",
        "eval.problems.size=20",
        "eval.greedy=false",
        "threads=1",
    ]
    train(compose("train", TrainConfig, overrides))
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["phase"] == "train"]
    assert len(rows) == 2
    assert all(float(str(row["logprob_gap/max"])) <= 1e-4 for row in rows if "logprob_gap/max" in row)
