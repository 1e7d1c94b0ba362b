"""The training loop: collect, score groups, update, let the gate go on.

One step is ``prompts_per_step`` problems with ``group_size`` samples each. Everything random derives from the seed and
a ticket number; in deterministic mode two runs of one seed differ in ``time/`` fields only.

How new weights reach the engine is behind :class:`algos.sync.base.WeightSync`: requests in flight are held only around
the optimizer's step and the new version, so with staleness above 0 an engine that runs elsewhere samples while the
trainer trains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from agents.base import Agent, Sampling
from agents.loading import check_context, load_model, setup_torch
from agents.rollout import play
from agents.run_folder import RunFolder
from agents.stats import summarise
from algos import checkpoint
from algos.checkpoint import Position
from algos.config import OptimConfig, PeriodicEvalConfig, TrainConfig
from algos.learn import learn
from algos.logger import RunLogger
from algos.losses import PolicyLoss
from algos.metrics import eval_metrics
from algos.players import Player, make_player, with_workers
from algos.rollouts import Replaying, Rollouts
from algos.scorer import Scorer
from algos.setup import make_rollouts, open_store, replay_rollouts
from algos.store import RolloutStore
from retool_env.config import EnvConfig
from retool_env.envs.check import check_prompts
from retool_env.envs.toolbox import tool_specs
from retool_env.errors import UsageError
from retool_env.files import atomic
from retool_env.rewards import describe, make_reward
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory, append_trajectories

__all__ = ["evaluate", "learn", "make_optimizer", "make_rollouts", "train"]


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the loop works with."""

    config: TrainConfig
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    rollouts: Rollouts
    store: RolloutStore | None
    player: Player | None


def train(config: TrainConfig) -> Path:
    """Run ``retool train``; returns the folder of the last checkpoint.

    Raises:
        UsageError: a file or value that cannot work; nothing has been trained then.
        InfrastructureError: too many episodes of a step failed; ``resume=true`` goes on from the last checkpoint.
    """
    if config.model.path is None:
        raise UsageError("model.path is not set; give the checkpoint to start from, e.g. one of retool sft")
    setup_torch(seed=config.seed, threads=config.threads, deterministic=config.deterministic)
    env = config.env.model_copy(update={"tokenizer": config.model.path})
    check_context(load_model(config.model.path), env)
    if config.rollout.replay is None:
        for problems in (config.problems, config.eval.problems):
            check_prompts(open_source(**problems.model_dump()), env)
    replayed = replay_rollouts(config) if config.rollout.replay is not None else None
    run = RunFolder(config.out, config, resume=config.resume)
    last = checkpoint.last_checkpoint(run)
    model = load_model(str(last or config.model.path))
    optimizer = make_optimizer(model, config.optim)
    position = checkpoint.load(last, optimizer)
    player = None if replayed else make_player(config, env, model, version=position.step)
    rollouts = replayed if player is None else make_rollouts(config, env, player.engine)
    assert rollouts is not None
    try:
        rollouts.load_state_dict(position.rollouts)
        if player is not None:
            player = with_workers(player, rollouts, model, version=position.step)
        checkpoint.drop_behind(run, position.step, trajectories_per_step=_num_logged(config))
        job = _Job(
            config=config,
            model=model,
            optimizer=optimizer,
            rollouts=rollouts,
            store=open_store(config, run.path, first=position.step),
            player=player,
        )
        with RunLogger(run, total=config.algo.steps, label="train", first=position.step) as logger:
            _loop(job, logger, first_step=position.step)
    finally:
        rollouts.close()
        if player is not None:
            player.close()
    return run.checkpoint("final")


def _num_logged(config: TrainConfig) -> int:
    return min(config.log_trajectories, config.algo.tickets_per_step)


def make_optimizer(model: PreTrainedModel, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters."""
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def _loop(job: _Job, logger: RunLogger, *, first_step: int) -> None:
    config, algo, player = job.config, job.config.algo, job.player
    scorer = Scorer(job.model, temperature=config.rollout.sampling.temperature)
    loss = PolicyLoss(scorer, clip_low=algo.clip_low, clip_high=algo.clip_high)
    job.model.eval()  # no dropout: the ratio compares with what the engine sampled without it
    _introduce(job, logger)
    if first_step < algo.steps:
        job.rollouts.set_version(first_step)
    for step in range(first_step, algo.steps):
        if config.eval.every and step % config.eval.every == 0 and player is not None:
            evaluate(player.engine, player.env, config.eval, logger, step=step)
        start = time.perf_counter()
        trajectories = job.rollouts.collect(step)
        if job.store is not None:
            job.store.write(step, trajectories)
        collected = time.perf_counter()
        metrics = learn(loss, job.optimizer, trajectories, config, step=step, sync=player.sync if player else None)
        if step + 1 < algo.steps:
            job.rollouts.set_version(step + 1)
        if isinstance(job.rollouts, Replaying):
            metrics["num_lost"] = job.rollouts.take_lost()
        metrics |= {"time/rollout_s": collected - start, "time/update_s": time.perf_counter() - collected}
        logger.log("train", step, metrics)
        append_trajectories(logger.run.trajectories, trajectories[: _num_logged(config)])
        logger.advance(step + 1, f"accuracy {metrics.get('accuracy/mean', math.nan):.3f}")
        if config.save_every and (step + 1) % config.save_every == 0:
            _save(job, logger.run, f"step-{step + 1:06d}", step + 1)
    _save(job, logger.run, "final", algo.steps)
    if player is not None:
        evaluate(player.engine, player.env, config.eval, logger, step=algo.steps, final=True)


def _introduce(job: _Job, logger: RunLogger) -> None:
    config = job.config
    if job.player is None:
        logger.say(f"rollouts of {config.rollout.replay}; nothing is played, so nothing is evaluated either")
        return
    reward = make_reward(config.env.reward, tool_cost=config.env.tool_cost)
    for line in describe(reward, tool_specs(job.player.env)):
        logger.say(line)


def _save(job: _Job, run: RunFolder, name: str, step: int) -> None:
    assert job.config.model.path is not None
    position = Position(step=step, rollouts=job.rollouts.state_dict())
    checkpoint.save(run.checkpoint(name), job.model, job.optimizer, position, tokenizer=job.config.model.path)


def evaluate(
    agent: Agent,
    env: EnvConfig,
    config: PeriodicEvalConfig,
    logger: RunLogger,
    *,
    step: int,
    final: bool = False,
) -> None:
    """Play the held-out problems once at temperature 1; at the end also greedily, and keep the episodes.

    The random streams are the same at every step and for every seed of a run, so stages and seeds are compared on the
    same draws.
    """
    modes = {"sampled": Sampling(temperature=1.0)}
    if final and config.greedy:
        modes["greedy"] = Sampling(temperature=0.0)
    source = open_source(**config.problems.model_dump())
    assert source.size is not None, "the configuration sees to it that an evaluation ends"
    for mode, sampling in modes.items():
        start = time.perf_counter()
        trajectories = play(
            source, agent, env=env, num_episodes=source.size, num_slots=config.num_slots, sampling=sampling
        )
        seconds = {"time/eval_s": time.perf_counter() - start}
        logger.log("eval" if mode == "sampled" else "eval_greedy", step, eval_metrics(trajectories) | seconds)
        if final:
            _keep(logger.run.eval_file(mode), trajectories)
        total = summarise(trajectories)[0]
        logger.say(f"step {step:4d}  {mode:7s}  accuracy {total.accuracy}  tool rate {total.tool_rate}")


def _keep(path: Path, trajectories: Sequence[Trajectory]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        append_trajectories(temporary, trajectories)
