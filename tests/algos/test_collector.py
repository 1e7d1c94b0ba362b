"""TorchRL's collector equals the plain loop bit for bit, with real programs and real weights that change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.embedded import EmbeddedAgent
from agents.loading import load_model
from agents.run_folder import is_time
from algos.actor_critic import around
from algos.config import AlgoConfig, RolloutConfig, TrainConfig
from algos.learn import Learner
from algos.policy.world import World
from algos.setup import make_rollouts
from algos.sync.base import SharedWeights
from retool_env.config import EnvConfig
from retool_env.outcome import Outcome
from retool_env.sandbox import registry
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import Trajectory


def run(
    folder: Path,
    env: EnvConfig,
    collector: str,
    num_slots: int,
    steps: int = 3,
    staleness: int = 0,
    deterministic: bool = True,
) -> tuple[list, list, torch.Tensor]:
    config = TrainConfig(
        model={"path": str(folder)},
        env=env,
        seed=5,
        deterministic=deterministic,
        algo=AlgoConfig(prompts_per_step=3, group_size=4, steps=steps),
        rollout=RolloutConfig(collector=collector, num_slots=num_slots, staleness=staleness),
    )
    model = load_model(str(folder))
    agent = EmbeddedAgent(model, load_tokenizer(str(folder)))
    learner = Learner(parts=around(model, config), config=config, world=World(), sync=SharedWeights(agent))
    rollouts = make_rollouts(config, env.model_copy(update={"tokenizer": str(folder)}), agent)
    trajectories, metrics = [], []
    try:
        for step in range(steps):
            rollouts.set_version(step)
            collected = rollouts.collect(step)
            made = learner.learn(collected, step=step)
            metrics.append({name: value for name, value in made.items() if not is_time(name)})
            trajectories += collected
    finally:
        rollouts.close()
        agent.close()
    return trajectories, metrics, torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_equal(one: Trajectory, two: Trajectory) -> None:
    assert one.ticket == two.ticket
    for name in ("token_ids", "action_mask", "logprobs", "policy_version"):
        left, right = getattr(one.transcript, name), getattr(two.transcript, name)
        assert np.array_equal(left, right, equal_nan=name == "logprobs"), (one.ticket, name)
    assert one.transcript.spans == two.transcript.spans
    assert one.record.outcome == two.record.outcome
    assert one.record.reward_parts == two.record.reward_parts


@pytest.mark.parametrize("num_slots", [12, 5])
def test_collector_equals_plain_loop(cold_start: Path, tiny_env: EnvConfig, num_slots: int) -> None:
    plain, plain_metrics, plain_weights = run(cold_start, tiny_env, "plain", num_slots)
    torchrl, torchrl_metrics, torchrl_weights = run(cold_start, tiny_env, "torchrl", num_slots)
    assert len(plain) == len(torchrl) == 36
    for one, two in zip(plain, torchrl, strict=True):
        assert_equal(one, two)
    assert plain_metrics == torchrl_metrics
    assert torch.equal(plain_weights, torchrl_weights)
    assert {version for t in plain[12:24] for version in t.transcript.policy_version[t.transcript.action_mask]} == {1}
    assert any(t.record.calls for t in plain), "no episode called the interpreter: the test shows nothing"


def test_further_groups_are_those_of_the_plain_loop(tiny_folder: Path, tiny_env: EnvConfig) -> None:
    """Dynamic sampling: groups beyond a step's share, and the next step goes on behind them; resumed in between."""
    taken: dict[str, list[Trajectory]] = {}
    for kind in ("plain", "torchrl"):
        config = TrainConfig(
            model={"path": str(tiny_folder)},
            env=tiny_env,
            algo=AlgoConfig(prompts_per_step=2, group_size=2, steps=2),
            rollout=RolloutConfig(collector=kind),
        )
        agent = EmbeddedAgent(load_model(str(tiny_folder)), load_tokenizer(str(tiny_folder)))
        state, taken[kind] = None, []
        for step in range(2):
            rollouts = make_rollouts(config, tiny_env, agent)
            try:
                if state is not None:
                    rollouts.load_state_dict(state)
                rollouts.set_version(step)
                taken[kind] += [*rollouts.collect(step), *(rollouts.more(3) if step == 0 else [])]
                state = rollouts.state_dict()
            finally:
                rollouts.close()
        agent.close()
    assert [t.ticket for t in taken["plain"]] == list(range(14))
    for one, two in zip(taken["plain"], taken["torchrl"], strict=True):
        assert np.array_equal(one.transcript.token_ids, two.transcript.token_ids), one.ticket


def versions_of(trajectory: Trajectory) -> set[int]:
    transcript = trajectory.transcript
    return set(transcript.policy_version[transcript.action_mask].tolist())


def test_lock_step_ahead_of_the_trainer_repeats_to_the_bit(cold_start: Path, tiny_env: EnvConfig) -> None:
    one, one_metrics, one_weights = run(cold_start, tiny_env, "torchrl", 15, steps=2, staleness=1)
    two, two_metrics, two_weights = run(cold_start, tiny_env, "torchrl", 15, steps=2, staleness=1)
    for left, right in zip(one, two, strict=True):
        assert_equal(left, right)
    assert one_metrics == two_metrics
    assert torch.equal(one_weights, two_weights)
    assert any(versions_of(t) == {0} for t in one[12:]), "nothing was begun early: the test shows nothing"


def test_free_running_threads_share_the_engine(cold_start: Path, tiny_env: EnvConfig) -> None:
    """The engine generates in the thread that waits; every step is on-policy, and its log-probabilities are exact."""
    trajectories, metrics, _ = run(cold_start, tiny_env, "torchrl", 5, steps=2, deterministic=False)
    assert [t.ticket for t in trajectories] == list(range(24))
    assert [versions_of(t) for t in trajectories] == [{0}] * 12 + [{1}] * 12
    gaps = [row["logprob_gap/max"] for row in metrics if "logprob_gap/max" in row]
    assert gaps
    assert max(gaps) <= 1e-4


def test_trainer_and_engine_agree_on_a_multi_turn_batch(cold_start: Path, tiny_env: EnvConfig) -> None:
    """Invariant 6."""
    trajectories, metrics, _ = run(cold_start, tiny_env, "plain", 12)
    assert max(len(t.transcript.spans) for t in trajectories) >= 4, "no multi-turn episode"
    gaps = [row["logprob_gap/max"] for row in metrics if "logprob_gap/max" in row]
    assert gaps
    assert max(gaps) <= 1e-4


def test_closing_in_mid_flight_leaves_no_thread(cold_start: Path, tiny_env: EnvConfig) -> None:
    import threading

    before = threading.active_count()
    config = TrainConfig(
        model={"path": str(cold_start)}, env=tiny_env, algo=AlgoConfig(prompts_per_step=2, group_size=2)
    )
    agent = EmbeddedAgent(load_model(str(cold_start)), load_tokenizer(str(cold_start)))
    rollouts = make_rollouts(config, tiny_env.model_copy(update={"tokenizer": str(cold_start)}), agent)
    rollouts.set_version(0)  # the threads submit their first turns, and nobody serves them
    rollouts.close()
    assert threading.active_count() <= before


def test_an_engine_that_fails_is_an_outage_of_every_episode(cold_start: Path, tiny_env: EnvConfig) -> None:
    class Broken(EmbeddedAgent):
        def act_many(self, requests: list) -> list:
            raise RuntimeError("out of memory")

    algo = AlgoConfig(prompts_per_step=2, group_size=2)
    env = tiny_env.model_copy(update={"tokenizer": str(cold_start)})
    agent = Broken(load_model(str(cold_start)), load_tokenizer(str(cold_start)))
    for collector in ("plain", "torchrl"):
        config = TrainConfig(model={"path": str(cold_start)}, algo=algo, rollout=RolloutConfig(collector=collector))
        rollouts = make_rollouts(config, env, agent)
        rollouts.set_version(0)
        trajectories = rollouts.collect(0)
        rollouts.close()
        assert [t.record.outcome for t in trajectories] == [Outcome.ENGINE_OUTAGE] * 4
        assert not any(t.scored for t in trajectories)


@pytest.mark.parametrize("collector", ["plain", "torchrl"])
def test_closing_gives_the_sandbox_back(cold_start: Path, tiny_env: EnvConfig, collector: str) -> None:
    before = registry._users.get("fork", 0)
    run(cold_start, tiny_env, collector, num_slots=4, steps=1)
    assert registry._users.get("fork", 0) == before
