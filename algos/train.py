"""The training loop: collect, score groups, update, let the gate go on.

One step is ``prompts_per_step`` problems with ``group_size`` samples each. The engine reads the trainer's own tensors,
so "weight sync" is raising the version. Everything random derives from the seed and a ticket number; in deterministic
mode two runs of one seed differ in ``time/`` fields only.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from agents.base import Sampling
from agents.embedded import EmbeddedAgent
from agents.loading import check_context, load_model, save_checkpoint, setup_torch
from agents.recorder import Recorder
from agents.rollout import play
from agents.run_folder import RunFolder, atomic
from agents.stats import summarise
from algos.batch import Sample, micro_batches, token_mean_weight
from algos.collector import CollectorRollouts, PlainRollouts, Rollouts
from algos.config import OptimConfig, PeriodicEvalConfig, TrainConfig
from algos.groups import GroupBuffer, samples_of
from algos.logger import RunLogger
from algos.losses import PolicyLoss
from algos.metrics import eval_metrics, rollout_metrics
from algos.scorer import Scorer
from retool_env.config import EnvConfig
from retool_env.envs.check import check_prompts
from retool_env.envs.toolbox import tool_specs
from retool_env.errors import InfrastructureError, UsageError
from retool_env.feeder import Feeder
from retool_env.rewards import describe, make_reward
from retool_env.sources import open_source
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import Trajectory, append_trajectories, read_trajectories

__all__ = ["evaluate", "learn", "make_optimizer", "make_rollouts", "train", "update"]


def train(config: TrainConfig) -> Path:
    """Run ``retool train``; returns the folder of the last checkpoint.

    Raises:
        UsageError: a file or value that cannot work; nothing has been trained then.
    """
    if config.model.path is None:
        raise UsageError("model.path is not set; give the checkpoint to start from, e.g. one of retool sft")
    setup_torch(seed=config.seed, threads=config.threads, deterministic=config.deterministic)
    source = config.model.path
    env = config.env.model_copy(update={"tokenizer": source})
    check_context(load_model(source), env)
    for problems in (config.problems, config.eval.problems):
        check_prompts(open_source(**problems.model_dump()), env)
    run = RunFolder(config.out, config, resume=config.resume)
    last = _last_checkpoint(run)
    model = load_model(str(last or source))
    optimizer = make_optimizer(model, config.optim)
    first_step = _restore(run, last, optimizer, config)
    agent = EmbeddedAgent(model, load_tokenizer(source))
    agent.set_version(first_step)
    rollouts = make_rollouts(config, env, agent, first_step=first_step)
    try:
        with RunLogger(run, total=config.algo.steps, label="train", first=first_step) as logger:
            for line in describe(make_reward(env.reward, tool_cost=env.tool_cost), tool_specs(env)):
                logger.say(line)
            _loop(config, env, optimizer, agent, rollouts, logger, first_step=first_step)
    finally:
        rollouts.close()
    return run.checkpoint("final")


def _last_checkpoint(run: RunFolder) -> Path | None:
    """The checkpoint of the latest step; a folder is complete or not there at all."""
    if run.checkpoint("final").is_dir():
        return run.checkpoint("final")
    return max((run.path / "checkpoints").glob("step-*"), default=None)


def _restore(run: RunFolder, checkpoint: Path | None, optimizer: torch.optim.Optimizer, config: TrainConfig) -> int:
    """Load the optimizer and drop what was written after the checkpoint; returns the step to go on with."""
    step = 0
    if checkpoint is not None:
        state = torch.load(checkpoint / "trainer.pt", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    # The evaluation at the checkpoint's step is made again, with the same result.
    run.keep_metrics(lambda phase, at: at < step)
    if run.trajectories.is_file():
        limit = step * config.algo.tickets_per_step
        with atomic(run.trajectories) as temporary:
            append_trajectories(temporary, (t for t in read_trajectories(run.trajectories) if t.ticket < limit))
    return step


def make_rollouts(config: TrainConfig, env: EnvConfig, agent: EmbeddedAgent, *, first_step: int = 0) -> Rollouts:
    """The rollouts that ``config.rollout`` asks for, wired to a feeder and a recorder."""
    recorder = Recorder()
    source = open_source(**config.problems.model_dump())
    algo, rollout = config.algo, config.rollout
    feeder = Feeder(
        source,
        seed=config.seed,
        group_size=algo.group_size,
        first=first_step * algo.tickets_per_step,
        shuffle=True,
        on_end=recorder.finish,
    )
    plain = rollout.collector == "plain"
    make = PlainRollouts if plain else functools.partial(CollectorRollouts, staleness=rollout.staleness)
    return make(
        feeder,
        recorder,
        agent,
        env=env,
        sampling=rollout.sampling,
        num_slots=min(rollout.num_slots or algo.tickets_per_step, algo.tickets_per_step),
        tickets_per_step=algo.tickets_per_step,
    )


def make_optimizer(model: PreTrainedModel, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters."""
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def _loop(
    config: TrainConfig,
    env: EnvConfig,
    optimizer: torch.optim.Optimizer,
    agent: EmbeddedAgent,
    rollouts: Rollouts,
    logger: RunLogger,
    *,
    first_step: int,
) -> None:
    algo, model = config.algo, agent.model
    scorer = Scorer(model, temperature=config.rollout.sampling.temperature)
    loss = PolicyLoss(scorer, clip_low=algo.clip_low, clip_high=algo.clip_high)
    model.eval()  # no dropout: the ratio compares with what the engine sampled without it
    for step in range(first_step, algo.steps):
        if config.eval.every and step % config.eval.every == 0:
            evaluate(agent, env, config.eval, logger, step=step)
        start = time.perf_counter()
        rollouts.set_version(step)
        trajectories = rollouts.collect(step)
        collected = time.perf_counter()
        metrics = learn(loss, optimizer, trajectories, config)
        agent.set_version(step + 1)
        metrics |= {"time/rollout_s": collected - start, "time/update_s": time.perf_counter() - collected}
        logger.log("train", step, metrics)
        append_trajectories(logger.run.trajectories, trajectories[: config.log_trajectories])
        logger.advance(step + 1, f"accuracy {metrics.get('accuracy/mean', math.nan):.3f}")
        if config.save_every and (step + 1) % config.save_every == 0:
            save(logger.run.checkpoint(f"step-{step + 1:06d}"), config, model, optimizer, step + 1)
    save(logger.run.checkpoint("final"), config, model, optimizer, algo.steps)
    evaluate(agent, env, config.eval, logger, step=algo.steps, final=True)


def learn(
    loss: PolicyLoss, optimizer: torch.optim.Optimizer, trajectories: Sequence[Trajectory], config: TrainConfig
) -> dict[str, float]:
    """Group the trajectories of a step, compute advantages and update; returns the step's metrics."""
    algo = config.algo
    _stop_if_broken(trajectories, algo.max_failed_share)
    buffer = GroupBuffer(algo.group_size)
    groups = [group for trajectory in trajectories if (group := buffer.add(trajectory))]
    samples, stats = samples_of(groups, advantage=algo.advantage, mask_tool_tokens=algo.mask_tool_tokens)
    metrics = rollout_metrics(trajectories) | {
        "groups/total": float(stats.num_groups),
        "groups/zero_spread": float(stats.num_zero_spread),
        "groups/dropped": float(stats.num_dropped),
        "groups/excluded_samples": float(stats.num_excluded),
    }
    for number in range(algo.updates_per_step):
        # The gap between trainer and engine is measured before anything changed, so the first update's is kept.
        updated = update(loss, optimizer, samples, config)
        metrics |= updated if number == 0 else {k: v for k, v in updated.items() if k != "logprob_gap/max"}
    return metrics


def _stop_if_broken(trajectories: Sequence[Trajectory], max_share: float) -> None:
    failed = Counter(str(t.record.outcome) for t in trajectories if t.record.outcome.failed)
    if failed.total() > max_share * len(trajectories):
        causes = ", ".join(f"{name} {count}" for name, count in failed.most_common())
        raise InfrastructureError(
            f"{failed.total()} of {len(trajectories)} episodes of this step failed ({causes}), more than "
            f"algo.max_failed_share={max_share:g}; repair it and go on with resume=true"
        )


def update(
    loss: PolicyLoss, optimizer: torch.optim.Optimizer, samples: Sequence[Sample], config: TrainConfig
) -> dict[str, float]:
    """One optimizer step on all samples; returns its metrics, ``{}`` when there is nothing to learn from."""
    if not samples:
        return {}
    weight = token_mean_weight(samples)
    optimizer.zero_grad()
    rows = []
    for batch in micro_batches(samples, max_tokens=config.algo.micro_batch_tokens, weight=weight):
        out = loss(batch)
        out["loss_objective"].backward()
        rows.append(out.detach())
    norm = torch.nn.utils.clip_grad_norm_(loss.scorer.parameters(), config.optim.max_grad_norm)
    optimizer.step()
    return {
        "actor/loss": sum(float(row["loss_objective"]) for row in rows),
        "actor/entropy": sum(float(row["entropy"]) for row in rows),
        "actor/ppo_kl": sum(float(row["kl_approx"]) for row in rows),
        "actor/pg_clipfrac": sum(float(row["clip_fraction"]) for row in rows),
        "actor/grad_norm": float(norm),
        "logprob_gap/max": max(float(row["logprob_gap"]) for row in rows),
        "num_samples": float(len(samples)),
        "num_tokens/trained": 1 / weight,
    }


def save(
    folder: Path, config: TrainConfig, model: PreTrainedModel, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """A checkpoint: model and tokenizer in Hugging Face format, and the optimizer's state beside them."""
    assert config.model.path is not None

    def write_state(target: Path) -> None:
        torch.save({"optimizer": optimizer.state_dict(), "step": step}, target / "trainer.pt")

    save_checkpoint(folder, model, config.model.path, extra=write_state)


def evaluate(
    agent: EmbeddedAgent,
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
