"""Ours in ``benchmarks/training.py``: ``Learner.learn`` on episodes that are given.

All of a step counts: advantages, micro-batches, every pass, the loss, the optimizer and the metrics. The behaviour's
log-probabilities are what an engine would have said: those of the weights before the first step.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from turns import Turns

from agents.loading import setup_torch
from algos.actor_critic import ActorCritic, make_actor_critic
from algos.batch import Sample
from algos.config import TrainConfig
from algos.learn import Learner
from algos.per_token import per_token
from algos.policy.world import World
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory
from retool_env.transcript import Span, Transcript
from retool_env.verifier.verdict import Verdict


def played(row: dict[str, Any], logprobs: np.ndarray, *, ticket: int, group_size: int) -> Trajectory:
    """An episode of these ids, with this reward."""
    trained = np.array(row["trained"], dtype=np.bool_)
    cuts = [0, *(np.flatnonzero(trained[1:] != trained[:-1]) + 1).tolist(), len(trained)]
    spans = tuple(
        Span(role=("assistant" if trained[start] else "tool") if start else "prompt", turn=k // 2, start=start, end=end)
        for k, (start, end) in enumerate(itertools.pairwise(cuts))
    )
    record = EpisodeRecord(
        problem=Problem(id=str(ticket // group_size), prompt="?", answer="0"),
        outcome=Outcome.ANSWERED,
        turns=("?",),
        calls=(),
        verdict=Verdict(correct=row["reward"] > 0, answered=True),
        num_action_tokens=int(trained.sum()),
        reward_parts=(RewardPart(name="given", raw=row["reward"], weight=1.0),),
    )
    transcript = Transcript(
        token_ids=np.array(row["token_ids"]),
        action_mask=trained,
        logprobs=logprobs,
        policy_version=np.where(trained, 0, -1),
        spans=spans,
    )
    return Trajectory(
        ticket=ticket, group=ticket // group_size, sample=ticket % group_size, record=record, transcript=transcript
    )


def trajectories(rows: list[dict[str, Any]], parts: ActorCritic, config: TrainConfig) -> list[Trajectory]:
    """The episodes of a step, with what the policy said of them."""
    samples = [
        Sample(
            token_ids=np.array(row["token_ids"]),
            trained=np.array(row["trained"], dtype=np.bool_),
            behaviour_logprobs=np.full(len(row["trained"]), np.nan, dtype=np.float32),
            order=k,
        )
        for k, row in enumerate(rows)
    ]
    scored = per_token(parts.scorer, samples, max_tokens=config.algo.micro_batch_tokens, layout=parts.layout)
    size = config.algo.group_size
    pairs = zip(rows, scored, strict=True)
    return [played(row, logprobs, ticket=k, group_size=size) for k, (row, logprobs) in enumerate(pairs)]


def steps(order: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Steps without end, each when it is asked for."""
    work = json.loads(Path(order["work"]).read_text())
    size, num = work["group_size"], len(work["steps"][0])
    algo = {"prompts_per_step": num // size, "group_size": size} | order["algo"]
    optim = {name: work[name] for name in ("lr", "betas", "max_grad_norm")}
    config = TrainConfig(model={"path": work["model"]}, algo=algo, optim=optim)
    parts = make_actor_critic(config, World())
    learner = Learner(parts=parts, config=config, world=World())
    given = [trajectories(rows, parts, config) for rows in work["steps"]]
    for step in itertools.count():
        episodes = given[step % len(given)]
        for trajectory in episodes:  # sampled by the weights that are trained
            trajectory.transcript.policy_version[trajectory.transcript.action_mask] = step
        start = time.process_time()
        metrics = learner.learn(episodes, step=step)
        seconds = time.process_time() - start
        yield {"seconds": seconds, "loss": metrics["actor/loss"], "grad_norm": metrics["actor/grad_norm"]}


def main() -> None:
    turns = Turns()
    setup_torch(seed=0, threads=1, deterministic=True)
    taken = steps(json.loads(sys.argv[1]))
    while True:
        turns.wait()
        turns.answer(**next(taken))


if __name__ == "__main__":
    main()
