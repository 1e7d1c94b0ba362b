"""The training loop: collect, score groups, update, let the gate go on.

One step is ``prompts_per_step`` problems with ``group_size`` samples each. Everything random derives from the seed and
a ticket number; in deterministic mode two runs of one seed differ in time fields only.

Under ``torchrun`` every rank runs this. The first one also plays, evaluates, logs and writes files; what has to be done
together (gathering weights, scoring, updates, checkpoints) is.

How new weights reach the engine is behind :class:`algos.sync.base.WeightSync`: requests in flight are held only around
the optimizer's step and the new version, so with staleness above 0 an engine that runs elsewhere samples while the
trainer trains.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from agents.loading import check_context, load_config, setup_torch
from agents.run_folder import RunFolder
from algos.actor_critic import ActorCritic, make_actor_critic
from algos.alarms import WINDOW, Alarms
from algos.boards import check_boards
from algos.checkpoint import Checkpoints, Position, drop_behind
from algos.config import TrainConfig
from algos.dry_run import dry_run
from algos.evaluation import evaluate
from algos.hints import where_time_goes
from algos.isolation import check_layout, check_scorer
from algos.learn import Learner
from algos.logger import RunLogger, open_run
from algos.metrics import Metrics, num_passes
from algos.players import Player, make_player, with_workers
from algos.policy.world import World
from algos.rollouts import Replaying, Rollouts
from algos.setup import make_rollouts, open_checkpoints, open_store, replay_rollouts
from algos.shared_rollouts import SharedRollouts, collect
from algos.store import RolloutStore
from algos.timing import Timing
from retool_env.config import EnvConfig
from retool_env.envs.check import check_prompts, check_sandbox
from retool_env.envs.toolbox import tool_specs
from retool_env.errors import UsageError
from retool_env.rewards import describe, make_reward
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory, append_trajectories

__all__ = ["AfterStep", "make_rollouts", "train"]

AfterStep = Callable[[int, nn.Module], bool]
"""Gets the number of finished steps and the policy, on every rank; ``False`` ends the run as if that were all steps."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the loop works with; ``logger`` and ``store`` are the first rank's."""

    config: TrainConfig
    world: World
    learner: Learner
    rollouts: Rollouts
    checkpoints: Checkpoints
    player: Player | None
    logger: RunLogger | None
    store: RolloutStore | None
    alarms: Alarms
    after_step: AfterStep | None
    num_problems: int | None


def train(config: TrainConfig, *, after_step: AfterStep | None = None) -> Path:
    """Run ``retool train``; returns the folder of the last checkpoint, or where it would be after a dry run.

    Args:
        after_step: called after every step, to watch the run or to end it early.

    Raises:
        UsageError: a file or value that cannot work; nothing has been trained then.
        InfrastructureError: too many episodes of a step failed; ``resume=true`` goes on from the last checkpoint.
    """
    setup_torch(seed=config.seed, threads=config.threads, deterministic=config.deterministic)
    config = _with_steps(config)
    env = _checked(config)
    if config.dry_run:
        return dry_run(config)
    replayed = replay_rollouts(config) if config.rollout.replay is not None else None
    with contextlib.ExitStack() as stack:
        world = World.join(sequence_parallel=config.model.parallel.sequence)
        stack.callback(world.leave)
        run = open_run(config, world)
        _run(config, env, run, replayed, world, stack, after_step)
    return Path(config.out) / "checkpoints" / "final"


def _with_steps(config: TrainConfig) -> TrainConfig:
    """With ``algo.steps`` counted, where passes over the problems are given instead."""
    algo = config.algo
    if algo.num_epochs is None:
        return config
    size = open_source(**config.problems.model_dump()).size
    if size is None:
        raise UsageError(
            f"algo.num_epochs={algo.num_epochs:g}: problems={config.problems.name} never ends; set algo.steps, or "
            "problems.size"
        )
    steps = math.ceil(algo.num_epochs * size / algo.prompts_per_step)
    return config.model_copy(update={"algo": algo.model_copy(update={"steps": steps})})


def _checked(config: TrainConfig) -> EnvConfig:
    """Refuse what cannot work before anything is written; the environment with the model's tokenizer."""
    check_boards(config.logger)
    if config.model.path is None:
        raise UsageError("model.path is not set; give the checkpoint to start from, e.g. one of retool sft")
    env = config.env.model_copy(update={"tokenizer": config.model.path})
    check_context(load_config(config.model.path), env)
    if config.rollout.replay is None:
        check_sandbox(env)
        for problems in (config.problems, config.eval.problems):
            check_prompts(open_source(**problems.model_dump()), env)
    return env


def _run(
    config: TrainConfig,
    env: EnvConfig,
    run: RunFolder | None,
    replayed: Rollouts | None,
    world: World,
    stack: contextlib.ExitStack,
    after_step: AfterStep | None,
) -> None:
    parts = make_actor_critic(config, world)
    _check_layout(config, parts)
    checkpoints = open_checkpoints(config, parts, world)
    stack.callback(checkpoints.close)
    position = checkpoints.load()
    player = None if replayed else make_player(config, env, parts.model, world, version=position.step)
    if player is not None:
        stack.callback(player.close)
    own = replayed
    if player is not None and player.engine is not None:
        own = make_rollouts(config, env, player.engine)
    rollouts = SharedRollouts(own if world.is_main else None, world)
    stack.callback(rollouts.close)
    rollouts.load_state_dict(position.rollouts)
    if player is not None:
        player = with_workers(player, own, parts.model, version=position.step)
    logger = None
    if run is not None:
        drop_behind(run, position.step, trajectories_per_step=_num_logged(config))
        logger = stack.enter_context(
            RunLogger(run, total=config.algo.steps, label="train", first=position.step, config=config.logger)
        )
    job = _Job(
        config=config,
        world=world,
        learner=Learner(parts=parts, config=config, world=world, sync=player.sync if player else None),
        rollouts=rollouts,
        checkpoints=checkpoints,
        player=player,
        logger=logger,
        store=open_store(config, run.path, first=position.step) if run is not None else None,
        alarms=Alarms(has_tools=bool(env.tools), tolerance=_tolerance(config)),
        after_step=after_step,
        num_problems=None if replayed else open_source(**config.problems.model_dump()).size,
    )
    _loop(job, first_step=position.step)


def _check_layout(config: TrainConfig, parts: ActorCritic) -> None:
    algo, model = config.algo, parts.scorer.model
    check_layout(model, layout=parts.layout, max_tokens=max(algo.micro_batch_tokens, algo.score_tokens or 0))
    check_scorer(model, layout=parts.layout, precise=config.model.compute_dtype == "float32")


def _tolerance(config: TrainConfig) -> float:
    """Of log-probabilities between engine and trainer: one set of kernels in one precision agrees to 1e-4."""
    exact = config.agent.name == "embedded" and config.model.compute_dtype == "float32"
    return 1e-4 if exact else config.sync.tolerance


def _num_logged(config: TrainConfig) -> int:
    return min(config.log_trajectories, config.algo.tickets_per_step)


def _loop(job: _Job, *, first_step: int) -> None:
    config, steps = job.config, job.config.algo.steps
    if job.logger is not None:
        _introduce(job, job.logger)
    if first_step < steps:
        job.rollouts.set_version(first_step)
    for step in range(first_step, steps):
        if config.eval.every and step % config.eval.every == 0:
            _evaluate(job, step)
        timing = Timing()
        with timing.stage("gen"):
            trajectories = collect(job.rollouts, config.algo, step=step)
        if job.store is not None:
            job.store.write(step, trajectories)
        metrics = job.learner.learn(trajectories, step=step, timing=timing)
        if step + 1 < steps:
            job.rollouts.set_version(step + 1)
        if isinstance(job.rollouts, Replaying):
            metrics["num_lost"] = float(job.rollouts.take_lost())
        num_tokens = sum(len(t.transcript) for t in trajectories)
        num_sampled = sum(int(t.transcript.action_mask.sum()) for t in trajectories)
        metrics |= timing.metrics(num_tokens=num_tokens, num_sampled=num_sampled, num_ranks=job.world.size)
        metrics |= _progress(job, step, trajectories)
        _log(job, step, trajectories, metrics)
        if config.save_every and (step + 1) % config.save_every == 0:
            _save(job, f"step-{step + 1:06d}", step + 1)
        if job.after_step is not None and not job.after_step(step + 1, job.learner.parts.model):
            steps = step + 1
            break
    _save(job, "final", steps)
    _evaluate(job, steps, final=True)
    job.checkpoints.wait()


def _progress(job: _Job, step: int, trajectories: Sequence[Trajectory]) -> Metrics:
    """Steps that are done, and passes over the problems, where these come to an end."""
    done = {"training/global_step": float(step + 1)}
    if job.num_problems and trajectories:
        done["training/epoch"] = float(num_passes(trajectories, job.num_problems))
    return done


def _log(job: _Job, step: int, trajectories: Sequence[Trajectory], metrics: Metrics) -> None:
    if job.logger is None:
        return
    job.logger.log("train", step, metrics)
    append_trajectories(job.logger.run.trajectories, trajectories[: _num_logged(job.config)])
    job.logger.advance(step + 1, f"accuracy {metrics.get('accuracy/mean', math.nan):.3f}")
    for text in job.alarms.look(metrics, trajectories):
        job.logger.say(f"step {step}: [bold]alarm[/bold]: {text}", always=True)
    if step == WINDOW and (text := where_time_goes(metrics)):  # later than what is done once
        job.logger.say(f"step {step}: {text}")


def _introduce(job: _Job, logger: RunLogger) -> None:
    config = job.config
    if job.player is None:
        logger.say(f"rollouts of {config.rollout.replay}; nothing is played, so nothing is evaluated either")
        return
    reward = make_reward(config.env.reward, tool_cost=config.env.tool_cost)
    for line in describe(reward, tool_specs(job.player.env)):
        logger.say(line)


def _save(job: _Job, name: str, step: int) -> None:
    job.checkpoints.save(name, Position(step=step, rollouts=job.rollouts.state_dict()))


def _evaluate(job: _Job, step: int, *, final: bool = False) -> None:
    """The first rank plays; the others wait."""
    if job.player is None:
        return
    metrics: Metrics = {}
    if job.player.engine is not None and job.logger is not None:
        metrics = evaluate(job.player.engine, job.player.env, job.config.eval, job.logger, step=step, final=final)
    if job.config.keep_best:
        value = job.world.from_main(metrics.get("eval/accuracy", math.nan))
        job.checkpoints.keep_best(Position(step=step, rollouts=job.rollouts.state_dict()), value)
