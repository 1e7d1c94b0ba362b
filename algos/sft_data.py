"""What the cold start trains on: recordings as samples, in order, and the optimizer steps that they are cut into.

Samples come from driving an episode (``retool_env.recorded``), so their ids, masks and observations are those of a
rollout. Order is kept apart from small windows within which rows of similar length share a step: the phases of the
recordings are a curriculum.
"""

from __future__ import annotations

import functools
import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from algos.batch import Sample, plan
from algos.config import SftConfig
from retool_env.config import EnvConfig
from retool_env.data.recordings import read_recordings
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.feeder import shuffled
from retool_env.recorded import Recording, replay
from retool_env.seeding import derive
from retool_env.sources.traces import arithmetic_traces
from retool_env.tokenizer import load_tokenizer

__all__ = ["sample_of", "sft_steps", "trace_samples"]

_log = logging.getLogger(__name__)


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


def sft_steps(
    samples: Iterable[Sample], *, max_tokens: int, window: int, seed: int, num: int | None = None
) -> Iterator[list[Sample]]:
    """The samples of each optimizer step: about ``max_tokens`` tokens, padding included, of similar length, shuffled
    within windows of ``window`` samples; or ``num`` samples in their order, however long."""
    if num is not None:
        rest = iter(samples)
        yield from iter(lambda: list(itertools.islice(rest, num)), [])
        return
    rows: list[Sample] = []
    number = 0
    for sample in samples:
        rows.append(sample)
        if len(rows) == window:
            yield from _shuffled(rows, max_tokens, derive(seed, "window", number))
            rows, number = [], number + 1
    if rows:
        yield from _shuffled(rows, max_tokens, derive(seed, "window", number))


def _shuffled(rows: list[Sample], max_tokens: int, seed: int) -> list[list[Sample]]:
    steps = [[rows[k] for k in part] for part in plan(rows, max_tokens=max_tokens)]
    random.Random(seed).shuffle(steps)
    return steps
