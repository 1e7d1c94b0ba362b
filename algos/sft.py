"""The cold start: supervised training on recorded conversations, loss on the policy's tokens only.

Under ``torchrun`` every rank runs this, sees all samples of a step and trains on its share. A run that was stopped goes
on behind its last checkpoint: samples are made anew, those of earlier steps are passed over.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.loading import check_context, load_config, setup_torch
from agents.run_folder import RunFolder, read_metrics
from algos.actor_critic import Trained, make_optimizer
from algos.batch import Sample, rank_batches, weighted
from algos.boards import check_boards
from algos.checkpoint import Checkpoints, Position
from algos.config import SftConfig
from algos.dry_run import dry_run
from algos.evaluation import evaluate
from algos.isolation import check_layout, check_scorer
from algos.logger import RunLogger, open_run
from algos.losses import SftLoss
from algos.metrics import Metrics
from algos.players import Player, embedded_player
from algos.policy.adapters import drop_out
from algos.policy.model import build_policy, clip_gradients, trainable
from algos.policy.world import World
from algos.schedule import lr_factor
from algos.scorer import Scorer
from algos.sft_data import sft_steps, trace_samples
from algos.tiny import make_tiny
from retool_env.data.recordings import read_recordings
from retool_env.dialects import Dialect, make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.errors import UsageError
from retool_env.sources import open_source
from retool_env.sources.arithmetic import ArithmeticSource

__all__ = ["sft", "sft_update"]

LOG_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the loop works with; ``logger`` is the first rank's."""

    config: SftConfig
    world: World
    trained: Trained
    loss: SftLoss
    checkpoints: Checkpoints
    player: Player
    logger: RunLogger | None
    samples: Iterable[Sample]
    total: int


def sft(config: SftConfig) -> Path:
    """Run ``retool sft``; returns the folder of the checkpoint, or where it would be after a dry run.

    Raises:
        UsageError: a file or value that cannot work; nothing has been trained then.
    """
    setup_torch(seed=config.seed, threads=config.threads, deterministic=config.deterministic)
    _check(config)
    if config.dry_run:
        return dry_run(config, lambda env: trace_samples(config, env)[0])
    with contextlib.ExitStack() as stack:
        world = World.join(sequence_parallel=config.model.parallel.sequence)
        stack.callback(world.leave)
        run = open_run(config, world)
        start = world.from_main(_start(config, run) if run is not None else "")
        _train(config, start, run, world, stack)
    return Path(config.out) / "checkpoints" / "final"


def _check(config: SftConfig) -> None:
    """Refuse what cannot work before anything is written."""
    check_boards(config.logger)
    open_source(**config.eval.problems.model_dump())
    ArithmeticSource(families=config.traces.families)
    if config.traces.path is not None and not Path(config.traces.path).is_file():
        raise UsageError(f"traces.path={config.traces.path!r}: no such file; make it with `retool data sft`")
    if config.model.path is not None:
        check_context(load_config(config.model.path), config.env)
    elif config.env.max_context_tokens > config.model.tiny.max_positions:
        raise UsageError(
            f"env.max_context_tokens={config.env.max_context_tokens}: the tiny model has "
            f"{config.model.tiny.max_positions} positions; use experiment=tiny_sft, or set one of the two"
        )


def _start(config: SftConfig, run: RunFolder) -> str:
    """The folder of the model that is trained; a new tiny one is made."""
    if config.model.path is not None:
        return config.model.path
    folder = run.checkpoint("random")
    if not folder.is_dir():
        dialect = make_dialect(config.env.dialect, instructions=config.env.instructions)
        make_tiny(folder, config.model.tiny, seed=config.seed, dialect=dialect, texts=_texts(config, dialect))
    return str(folder)


def _texts(config: SftConfig, dialect: Dialect) -> Iterator[str]:
    """Everything that a new tiny model will read and write beside the arithmetic world: words for its tokenizer."""
    if config.traces.path is not None:
        for recording in itertools.islice(read_recordings(Path(config.traces.path), dialect), config.traces.num):
            yield recording.problem.question
            for turn in recording.turns:
                yield from (turn.text, *turn.outputs)
    if dialect.chat_tools:
        yield from (f" {spec.name}" for spec in tool_specs(config.env))


def _train(config: SftConfig, start: str, run: RunFolder | None, world: World, stack: contextlib.ExitStack) -> None:
    env = config.env.model_copy(update={"tokenizer": start})
    model = build_policy(start, config.model, world)
    check_layout(model, layout=config.layout, max_tokens=config.pass_tokens)
    check_scorer(model, layout=config.layout, precise=config.model.compute_dtype == "float32")
    loss = SftLoss(Scorer(model, chunk=config.head_rows, vocab_chunk=config.head_columns))
    trained = Trained(model=model, optimizer=make_optimizer(trainable(model), config.optim))
    checkpoints = Checkpoints(
        Path(config.out), trained, world, tokenizer=start, async_save=config.async_save, keep_last=config.keep_last
    )
    stack.callback(checkpoints.close)
    position = checkpoints.load()
    finished = (Path(config.out) / "checkpoints" / "final").is_dir()
    samples, total = ((), config.traces.num) if finished else trace_samples(config, env)
    player = embedded_player(config.model, start, env, model, world, version=position.step)
    stack.callback(player.close)
    logger = None
    if run is not None:
        run.keep_metrics(lambda phase, at: at < position.step + (phase == "train") or (finished and phase == "train"))
        logger = stack.enter_context(RunLogger(run, total=total, label="sft", config=config.logger))
    job = _Job(
        config=config,
        world=world,
        trained=trained,
        loss=loss,
        checkpoints=checkpoints,
        player=player,
        logger=logger,
        samples=samples,
        total=total,
    )
    last = position.step if finished else _loop(job, first_step=position.step)
    _evaluate(job, last, final=True)


def _loop(job: _Job, *, first_step: int) -> int:
    """All steps from ``first_step`` on; returns how many there are."""
    config, model = job.config, job.trained.model
    steps = sft_steps(
        job.samples, max_tokens=config.batch_tokens, num=config.batch_traces, window=config.window, seed=config.seed
    )
    begun, seen, updates, step, risen = time.perf_counter(), 0, list[Metrics](), first_step, 0.0
    for number, samples in enumerate(steps):
        progress = seen / job.total
        seen += len(samples)
        risen = progress if number <= config.optim.warmup_steps else risen
        if number < first_step:
            continue
        step, lr = number + 1, config.optim.lr * lr_factor(config.optim, number, progress=progress, risen=risen)
        updates.append(sft_update(job.loss, job.trained, samples, config, job.world, lr=lr))
        if job.logger is not None:
            job.logger.advance(seen, f"loss {updates[-1]['loss']:.3f}")
        if step % LOG_EVERY == 0 or seen == job.total:
            row = _over_updates(updates) | {"lr": lr, "traces": float(seen)}
            _log(job, step, row | {"timing_s/elapsed": time.perf_counter() - begun})
            updates = []
        if config.eval.every and step % config.eval.every == 0:
            job.player.sync.publish(step)
            _evaluate(job, step)
        if config.save_every and step % config.save_every == 0 and seen < job.total:
            job.checkpoints.save(f"step-{step:06d}", Position(step=step))
            updates = []  # a run that goes on from here does not have them
    model.eval()
    job.player.sync.publish(step)
    job.checkpoints.save("final", Position(step=step))
    job.checkpoints.wait()
    return step


def sft_update(
    loss: SftLoss, trained: Trained, samples: list[Sample], config: SftConfig, world: World, *, lr: float
) -> Metrics:
    """One optimizer step on these samples, over all ranks. Where loss or gradient is not a finite number, nothing is
    changed.

    Adapters' dropout is on here, as it is nowhere in reinforcement learning.

    Returns:
        ``loss``, the mean negative log-likelihood per trained token; ``grad_norm``; ``num_skipped_updates``, 0 or 1.
    """
    drop_out(trained.model)
    trained.optimizer.zero_grad()
    total = 0.0
    for batch in rank_batches(
        weighted(samples, num_ranks=world.size),
        rank=world.data_rank,
        num_ranks=world.num_data_ranks,
        max_tokens=config.pass_tokens,
        layout=config.layout,
    ):
        out = loss(batch.to(world.device))
        out["loss_objective"].backward()
        total += float(out["loss_objective"].detach())
    for group in trained.optimizer.param_groups:
        group["lr"] = lr
    mean = world.sum(total) / world.size
    norm = clip_gradients(trainable(trained.model), config.optim.max_grad_norm)
    finite = math.isfinite(mean) and math.isfinite(norm)
    if finite:
        trained.optimizer.step()
    return {"loss": mean, "grad_norm": norm, "num_skipped_updates": float(not finite)}


def _over_updates(updates: Sequence[Metrics]) -> Metrics:
    """Means over the updates that were made, and how many were not."""
    made = [row for row in updates if not row["num_skipped_updates"]]
    means = {name: math.fsum(row[name] for row in made) / len(made) for name in ("loss", "grad_norm") if made}
    return means | {"num_skipped_updates": float(len(updates) - len(made))}


def _log(job: _Job, step: int, row: Metrics) -> None:
    if job.logger is None:
        return
    job.logger.log("train", step, row)
    if row["num_skipped_updates"]:
        job.logger.say(
            f"step {step}: [bold]alarm[/bold]: {row['num_skipped_updates']:.0f} updates were skipped, because loss or "
            "gradient was not a finite number; lower optim.lr, or look at model.compute_dtype and the traces"
        )


def _evaluate(job: _Job, step: int, *, final: bool = False) -> None:
    """The first rank plays; the others wait."""
    job.trained.model.eval()
    if job.logger is not None and job.player.engine is not None:
        step = _last_step(job.logger.run) if final else step
        evaluate(job.player.engine, job.player.env, job.config.eval, job.logger, step=step, final=final)
    job.world.barrier()


def _last_step(run: RunFolder) -> int:
    rows = read_metrics(run.path / "metrics.jsonl")
    return max((int(str(row["step"])) for row in rows if row["phase"] == "train"), default=0)
