"""Evaluation during training and at its end, on problems that are never trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agents.base import Agent, Sampling
from agents.rollout import play
from agents.stats import summarise
from algos.config import PeriodicEvalConfig
from algos.logger import RunLogger
from algos.metrics import Metrics, eval_metrics
from retool_env.config import EnvConfig
from retool_env.files import atomic
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory, append_trajectories

__all__ = ["evaluate"]

FIRST_SESSION: Final = 2**40
"""Episodes of an evaluation are named apart from those that are being trained on at the same time."""


def evaluate(
    agent: Agent,
    env: EnvConfig,
    config: PeriodicEvalConfig,
    logger: RunLogger,
    *,
    step: int,
    final: bool = False,
) -> Metrics:
    """Play the held-out problems as configured; at the end also greedily, and keep the episodes.

    The random streams are the same at every step and for every seed of a run, so stages and seeds are compared on the
    same draws.

    Returns:
        The metrics of the sampled pass.
    """
    modes = {"sampled": (config.sampling, config.samples)}
    if final and config.greedy:
        modes["greedy"] = (Sampling(temperature=0.0), 1)
    source = open_source(**config.problems.model_dump())
    assert source.size is not None, "the configuration sees to it that an evaluation ends"
    every: dict[str, Metrics] = {}
    for mode, (sampling, samples) in modes.items():
        start = time.perf_counter()
        trajectories = play(
            source,
            agent,
            env=env,
            num_episodes=source.size * samples,
            group_size=samples,
            num_slots=config.num_slots,
            sampling=sampling,
            first_session=FIRST_SESSION,
        )
        every[mode] = eval_metrics(trajectories)
        seconds = {"timing_s/testing": time.perf_counter() - start}
        logger.log("eval" if mode == "sampled" else "eval_greedy", step, every[mode] | seconds)
        if final:
            _keep(logger.run.eval_file(mode), trajectories)
        total = summarise(trajectories)[0]
        logger.say(f"step {step:4d}  {mode:7s}  accuracy {total.accuracy}  tool rate {total.tool_rate}")
    return every["sampled"]


def _keep(path: Path, trajectories: Sequence[Trajectory]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        append_trajectories(temporary, trajectories)
