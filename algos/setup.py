"""From the configuration to rollouts (which kind, which feeder, which gate, which scheduler), store and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agents.base import Agent, BatchAgent
from agents.free import FreeRun
from agents.gate import Gate
from agents.lockstep import Lockstep
from agents.requests import Asker
from algos.actor_critic import Trained
from algos.checkpoint import Checkpoints
from algos.collector import CollectorRollouts
from algos.config import TrainConfig
from algos.policy.world import World
from algos.rollouts import PlainRollouts, Rollouts
from algos.store import RolloutStore, StoredRollouts, StoreHeader
from retool_env.config import EnvConfig
from retool_env.feeder import Feeder, OnEnd
from retool_env.sources import open_source

__all__ = ["make_rollouts", "open_checkpoints", "open_store", "replay_rollouts"]


def make_rollouts(config: TrainConfig, env: EnvConfig, agent: Agent) -> Rollouts:
    """The rollouts that ``config.rollout`` asks for, with episodes that are played."""
    algo, rollout = config.algo, config.rollout
    gate = Gate(
        tickets_per_step=algo.tickets_per_step,
        staleness=rollout.staleness,
        num_tickets=algo.steps * algo.tickets_per_step,
    )
    if rollout.ray.workers:
        return _ray_rollouts(config, env, gate)
    num_slots = min(rollout.num_slots or algo.tickets_per_step, gate.max_open)
    if rollout.collector == "plain":
        return PlainRollouts(
            _feeder_maker(config, shared=False),
            agent,
            env=env,
            sampling=rollout.sampling,
            num_slots=num_slots,
            tickets_per_step=algo.tickets_per_step,
        )
    scheduler = _scheduler(config, agent, gate, num_slots)
    return CollectorRollouts(
        _feeder_maker(config, shared=isinstance(scheduler, FreeRun)),
        scheduler,
        gate,
        Asker(agent, env, rollout.sampling),
        env=env,
        num_slots=num_slots,
        groups_per_step=algo.prompts_per_step,
    )


def _ray_rollouts(config: TrainConfig, env: EnvConfig, gate: Gate) -> Rollouts:
    from agents.player import Plan
    from algos.ray_rollouts import RayRollouts

    algo, rollout, agent = config.algo, config.rollout, config.agent
    plan = Plan(
        seed=config.seed, group_size=algo.group_size, problems=config.problems, env=env, sampling=rollout.sampling
    )
    return RayRollouts(
        plan,
        agent.model_copy(update={"path": config.model.path}) if agent.name == "embedded" else agent,
        rollout.ray,
        gate=gate,
        groups_per_step=algo.prompts_per_step,
        threads=config.threads,
    )


def _scheduler(config: TrainConfig, agent: Agent, gate: Gate, num_slots: int) -> Lockstep | FreeRun:
    """Lock-step in deterministic mode, for an agent that takes batches; otherwise every turn goes its own way."""
    if config.deterministic and isinstance(agent, BatchAgent):
        return Lockstep(agent, gate, num_slots=num_slots)
    return FreeRun(agent, gate)


def _feeder_maker(config: TrainConfig, *, shared: bool) -> Callable[[OnEnd], Feeder]:
    source = open_source(**config.problems.model_dump())

    def make(on_end: OnEnd) -> Feeder:
        size = config.algo.group_size
        return Feeder(source, seed=config.seed, group_size=size, shuffle=True, shared=shared, on_end=on_end)

    return make


def replay_rollouts(config: TrainConfig) -> Rollouts:
    """What the run ``config.rollout.replay`` stored.

    Raises:
        UsageError: there is no store, or it does not fit.
    """
    assert config.rollout.replay is not None
    return StoredRollouts(Path(config.rollout.replay), _header(config), num_steps=config.algo.steps)


def open_store(config: TrainConfig, run: Path, *, first: int) -> RolloutStore | None:
    """Where the run keeps its trajectories; ``None`` when it keeps none, or replays those of another."""
    if config.rollout.replay is not None or not config.rollout.store:
        return None
    return RolloutStore(run, _header(config), first=first)


def open_checkpoints(config: TrainConfig, parts: Trained, world: World) -> Checkpoints:
    """The checkpoints of a run; every rank must call this."""
    assert config.model.path is not None, "train() sees to it"
    return Checkpoints(
        Path(config.out),
        parts,
        world,
        tokenizer=config.model.path,
        async_save=config.async_save,
        keep_last=config.keep_last,
        reference=parts.reference is not None and config.algo.kl.refresh_every > 0,
    )


def _header(config: TrainConfig) -> StoreHeader:
    assert config.model.path is not None, "train() sees to it"
    return StoreHeader.of(config, config.model.path)
