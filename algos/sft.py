"""The cold start: supervised training on recorded conversations, loss on the policy's tokens only.

Samples come from driving an episode (``retool_env.recorded``), so their ids, masks and observations are those of a
rollout. Order is kept apart from small windows within which rows of similar length share a batch: the phases of the
recordings are a curriculum.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from transformers import PreTrainedModel

from agents.embedded import EmbeddedAgent
from agents.loading import check_context, load_config, load_model, save_checkpoint, setup_torch
from agents.run_folder import RunFolder, read_metrics
from algos.actor_critic import make_optimizer
from algos.batch import Sample, micro_batches
from algos.config import SftConfig
from algos.dry_run import dry_run
from algos.evaluation import evaluate
from algos.logger import RunLogger
from algos.losses import SftLoss
from algos.schedule import lr_factor
from algos.scorer import Scorer
from algos.tiny import make_tiny
from retool_env.config import EnvConfig
from retool_env.data.recordings import read_recordings
from retool_env.dialects import Dialect, make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.feeder import shuffled
from retool_env.recorded import Recording, replay
from retool_env.seeding import derive
from retool_env.sources import open_source
from retool_env.sources.arithmetic import ArithmeticSource
from retool_env.sources.traces import arithmetic_traces
from retool_env.tokenizer import load_tokenizer

__all__ = ["sample_of", "sft", "sft_batches", "sft_step"]

LOG_EVERY = 50
_log = logging.getLogger(__name__)


def sft(config: SftConfig) -> Path:
    """Run ``retool sft``; returns the folder of the checkpoint, or where it would be after a dry run.

    Raises:
        UsageError: a file or value that cannot work; nothing has been trained then.
    """
    setup_torch(seed=config.seed, threads=config.threads, deterministic=config.deterministic)
    _check(config)
    if config.dry_run:
        env = config.env.model_copy(update={"tokenizer": config.model.path})
        return dry_run(config, env, lambda: trace_samples(config, env)[0])
    run = RunFolder(config.out, config, resume=config.resume)
    done = run.checkpoint("final") if run.checkpoint("final").is_dir() else None
    start = str(done) if done else config.model.path
    dialect = make_dialect(config.env.dialect, instructions=config.env.instructions)
    if start is None:
        start = str(run.checkpoint("random"))
        make_tiny(Path(start), config.model.tiny, seed=config.seed, dialect=dialect, texts=_texts(config, dialect))
    model = load_model(start)
    env = config.env.model_copy(update={"tokenizer": start})
    samples, total = trace_samples(config, env) if done is None else ((), config.traces.num)
    with RunLogger(run, total=total, label="sft") as logger:
        if done is None:
            run.keep_metrics(lambda phase, at: False)
            _loop(config, env, model, logger, samples, total)
            save_checkpoint(run.checkpoint("final"), model, start)
        agent = EmbeddedAgent(model, load_tokenizer(start))
        evaluate(agent, env, config.eval, logger, step=_last_step(run), final=True)
    return run.checkpoint("final")


def _check(config: SftConfig) -> None:
    """Refuse what cannot work before anything is written."""
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


def _texts(config: SftConfig, dialect: Dialect) -> Iterator[str]:
    """Everything that a new tiny model will read and write beside the arithmetic world: words for its tokenizer."""
    if config.traces.path is not None:
        for recording in itertools.islice(read_recordings(Path(config.traces.path), dialect), config.traces.num):
            yield recording.problem.question
            for turn in recording.turns:
                yield from (turn.text, *turn.outputs)
    if dialect.chat_tools:
        yield from (f" {spec.name}" for spec in tool_specs(config.env))


def _last_step(run: RunFolder) -> int:
    rows = read_metrics(run.path / "metrics.jsonl")
    return max((int(str(row["step"])) for row in rows if row["phase"] == "train"), default=0)


def _loop(
    config: SftConfig,
    env: EnvConfig,
    model: PreTrainedModel,
    logger: RunLogger,
    samples: Iterable[Sample],
    total: int,
) -> None:
    optimizer = make_optimizer(model.parameters(), config.optim)
    loss = SftLoss(Scorer(model))
    agent = EmbeddedAgent(model, load_tokenizer(env.tokenizer))
    batches = sft_batches(samples, max_tokens=config.batch_tokens, window=config.window, seed=config.seed)
    model.train()
    begun, seen, losses = time.perf_counter(), 0, []
    for step, batch in enumerate(batches):
        progress = seen / total
        factor = lr_factor(config.optim, step, progress=progress)
        optimizer.param_groups[0]["lr"] = config.optim.lr * factor
        losses.append(sft_step(loss, optimizer, batch, max_grad_norm=config.optim.max_grad_norm))
        seen += len(batch)
        logger.advance(seen, f"loss {losses[-1]:.3f}")
        if (step + 1) % LOG_EVERY == 0 or seen == total:
            row = {"loss": sum(losses) / len(losses), "lr": config.optim.lr * factor, "traces": float(seen)}
            logger.log("train", step + 1, row | {"timing_s/elapsed": time.perf_counter() - begun})
            losses = []
        if config.eval.every and (step + 1) % config.eval.every == 0:
            agent.set_version(step + 1)
            evaluate(agent, env, config.eval, logger, step=step + 1)


def trace_samples(config: SftConfig, env: EnvConfig) -> tuple[Iterable[Sample], int]:
    """The cold-start traces as training samples, in order, and how many they are.

    Synthetic ones are made as they are needed; those of a file are held in memory.

    Raises:
        UsageError: a file that cannot be read, or of which no recording fits.
    """
    traces = config.traces
    dialect = make_dialect(env.dialect, instructions=env.instructions)
    drive = functools.partial(
        replay,
        dialect=dialect,
        tokenizer=load_tokenizer(env.tokenizer),
        limits=env.episode_limits,
        tools=tool_specs(env),
    )
    if traces.path is None:
        recordings = arithmetic_traces(
            traces.num, seed=config.seed, phases=traces.phases, families=traces.families, dialect=dialect
        )
        return (sample_of(drive(recording), order=k) for k, recording in enumerate(recordings)), traces.num
    samples = _fitting(itertools.islice(read_recordings(Path(traces.path), dialect), traces.num), drive, traces.path)
    passes = (samples[k] for epoch in range(traces.epochs) for k in shuffled(len(samples), config.seed, epoch))
    return (replace(sample, order=k) for k, sample in enumerate(passes)), len(samples) * traces.epochs


def _fitting(recordings: Iterable[Recording], drive: Callable[[Recording], Episode], path: str) -> list[Sample]:
    """The samples of the recordings that an episode can be driven with; the others are counted."""
    samples: list[Sample] = []
    refused: list[str] = []
    for recording in recordings:
        try:
            samples.append(sample_of(drive(recording)))
        except UsageError as error:
            refused.append(str(error))
    if refused:
        _log.warning("%s: %d recordings left out; the first: %s", path, len(refused), refused[0])
    if not samples:
        raise UsageError(f"traces.path={path!r}: no recording fits{'; the first: ' + refused[0] if refused else ''}")
    return samples


def sample_of(episode: Episode, order: int = 0) -> Sample:
    """A training sample of everything the assistant wrote in the episode."""
    return Sample(
        token_ids=np.array(episode.token_ids, dtype=np.int64),
        trained=np.array(episode.action_mask, dtype=np.bool_),
        behaviour_logprobs=np.full(len(episode.token_ids), np.nan, dtype=np.float32),
        order=order,
    )


def sft_batches(samples: Iterable[Sample], *, max_tokens: int, window: int, seed: int) -> Iterator[TensorDict]:
    """Batches of about ``max_tokens`` tokens, sorted by length and shuffled within windows of ``window`` samples.

    Each batch is one optimizer step; its weights are the token mean of the batch.
    """
    rows: list[Sample] = []
    number = 0
    for sample in samples:
        rows.append(sample)
        if len(rows) == window:
            yield from _shuffled(rows, max_tokens, derive(seed, "window", number))
            rows, number = [], number + 1
    if rows:
        yield from _shuffled(rows, max_tokens, derive(seed, "window", number))


def _shuffled(rows: list[Sample], max_tokens: int, seed: int) -> list[TensorDict]:
    batches = micro_batches(rows, max_tokens=max_tokens)
    for batch in batches:
        batch["weights"] = batch["weights"] / batch["trained"].sum().clamp_min(1)
    random.Random(seed).shuffle(batches)
    return batches


def sft_step(loss: SftLoss, optimizer: torch.optim.Optimizer, batch: TensorDict, *, max_grad_norm: float) -> float:
    """One optimizer step; returns the mean negative log-likelihood per trained token."""
    optimizer.zero_grad()
    out = loss(batch)
    out["loss_objective"].backward()
    torch.nn.utils.clip_grad_norm_(loss.parameters(), max_grad_norm)
    optimizer.step()
    return float(out["loss_objective"].detach())
