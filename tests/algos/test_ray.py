"""Rollouts by two Ray workers on this machine: the same episodes as here, and none lost when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agents.base import Sampling
from agents.config import AgentConfig
from agents.gate import Gate
from agents.player import GroupPlayer, Plan
from agents.registry import AgentSetup, make_agent
from agents.run_folder import read_metrics
from algos.config import RayConfig, TrainConfig
from algos.ray_rollouts import RayRollouts
from algos.rollouts import RolloutState
from algos.train import train
from retool_env.compose import compose
from retool_env.config import EnvConfig, ProblemsConfig
from retool_env.errors import InfrastructureError, UsageError
from retool_env.feeder import FeederState
from retool_env.sources import open_source
from tests.algos.processes import ray_workers

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'retool-env[ray]'")
pytestmark = pytest.mark.slow

ORACLE = AgentConfig(name="oracle")
SLOW = AgentConfig(
    name="scripted",
    options={"turns": ["<code>import time; time.sleep(1)</code>", r"<answer>\boxed{1}</answer>"]},
)
GROUPS, SIZE = 3, 2  # of a step, of a group


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One for all tests: Ray takes some seconds to start."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def plan() -> Plan:
    problems = ProblemsConfig(split="heldout", size=40)
    env = EnvConfig(instructions=False, tokenizer="bytes")
    return Plan(seed=3, group_size=SIZE, problems=problems, env=env, sampling=Sampling())


def start(plan: Plan, agent: AgentConfig = ORACLE, *, workers: int = 2, groups: int = 2) -> closing[RayRollouts]:
    gate = Gate(tickets_per_step=GROUPS * SIZE, staleness=1)
    config = RayConfig(workers=workers, groups=groups)
    return closing(RayRollouts(plan, agent, config, gate=gate, groups_per_step=GROUPS, threads=1))


def here(plan: Plan, group: int):
    source = open_source(**plan.problems.model_dump())
    with closing(GroupPlayer(plan, make_agent(AgentSetup(config=ORACLE, env=plan.env, source=source)))) as player:
        return player.play(group)


def steps(rollouts: RayRollouts, num: int):
    played = []
    for step in range(num):
        rollouts.set_version(step)
        taken = rollouts.collect(step)
        assert len(taken) == GROUPS * SIZE
        played += taken
    assert len({trajectory.ticket for trajectory in played}) == len(played)
    return played


def test_workers_play_what_this_process_would(plan: Plan) -> None:
    with start(plan) as rollouts:
        played = {trajectory.ticket: trajectory for trajectory in steps(rollouts, 3)}
        assert rollouts.take_lost() == 0
    for group in {trajectory.group for trajectory in played.values()}:
        for trajectory in here(plan, group):
            twin = played[trajectory.ticket]
            assert twin.transcript.token_ids.tolist() == trajectory.transcript.token_ids.tolist()
            assert twin.record.reward == trajectory.record.reward == 1.0


def test_a_killed_worker_loses_nothing(plan: Plan) -> None:
    """It is killed while it sleeps in programs, so what it plays is lost for certain."""
    with start(plan, SLOW) as rollouts:
        rollouts.set_version(0)
        victim = ray.get(rollouts._workers[0].actor.pid.remote())
        held = len(rollouts._workers[0].groups)
        os.kill(victim, signal.SIGKILL)
        steps(rollouts, 4)
        assert rollouts.take_lost() == held * SIZE > 0
        assert rollouts.take_lost() == 0
        assert ray.get(rollouts._workers[0].actor.pid.remote()) != victim


def test_a_run_goes_on_where_it_was(plan: Plan) -> None:
    with start(plan) as rollouts:
        first = steps(rollouts, 1)
        state = rollouts.state_dict()
    with start(plan, workers=1) as again:
        again.load_state_dict(state)
        again.set_version(1)
        second = again.collect(1)
    assert not {t.ticket for t in first} & {t.ticket for t in second}


def test_a_group_that_was_begun_is_completed(plan: Plan) -> None:
    """Another kind of rollouts leaves groups half-finished in a checkpoint; these play the rest of them.

    One group at a time: of two that are played at once the later one may be complete first.
    """
    kept = [here(plan, 0)[0], here(plan, 2)[1]]
    state = FeederState.model_validate(plan.feeder().state_dict() | {"first": 1, "finished": (5,)})
    with start(plan, workers=1, groups=1) as rollouts:
        rollouts.load_state_dict(RolloutState(feeder=state, waiting=tuple(t.to_json() for t in kept)))
        assert [trajectory.ticket for trajectory in steps(rollouts, 1)] == list(range(6))


def test_a_mistake_of_the_user_is_told_as_it_was(plan: Plan) -> None:
    with start(plan, AgentConfig(name="scripted", options={"turns": []}), workers=1) as rollouts:
        with pytest.raises(UsageError) as caught:
            steps(rollouts, 1)
        assert str(caught.value) == "agent.options.turns=[]: give at least one text"


def test_workers_that_always_die_end_the_run(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(
        "import os\n\n\nclass Mortal:\n    def __init__(self, setup): ...\n\n"
        "    def act(self, request):\n        os._exit(1)\n"
    )
    mortal = AgentConfig(name=f"{tmp_path / 'mortal.py'}:Mortal")
    with start(plan, mortal, workers=1) as rollouts, pytest.raises(InfrastructureError, match="6 rollout workers died"):
        steps(rollouts, 1)


def test_training_with_workers_that_hold_the_engine(cold_start: Path, tmp_path: Path) -> None:
    """A worker that takes the place of a dead one has the weights of the day: what it samples is what is scored."""
    metrics = tmp_path / "run" / "metrics.jsonl"

    def kill_one() -> None:
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
            time.sleep(0.05)
        os.kill(ray_workers(os.getpid())[0], signal.SIGKILL)

    overrides = [
        "experiment=tiny_grpo",
        "threads=1",
        f"model.path={cold_start}",
        f"out={tmp_path / 'run'}",
        "deterministic=false",
        "rollout.ray.workers=2",
        "rollout.ray.groups=4",
        "algo.steps=5",
        "algo.prompts_per_step=6",
        "optim.lr=1e-3",
        "eval.every=0",
        "eval.problems.size=20",
        "eval.greedy=false",
        "threads=1",
    ]
    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    train(compose("train", TrainConfig, overrides))
    killer.join()
    rows = [row for row in read_metrics(metrics) if row["phase"] == "train"]
    assert len(rows) == 5
    gaps = [float(str(row["logprob_gap/max"])) for row in rows if "logprob_gap/max" in row]
    assert gaps and max(gaps) <= 1e-4
    assert sum(row["num_lost"] for row in rows) > 0
    assert [row["groups/withheld_samples"] for row in rows] == [0] * 5, "all of it by the weights of its step"
