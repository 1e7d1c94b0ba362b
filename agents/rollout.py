"""The plain loop: rounds over ``env.step``, all live episodes of a round as one batch of the agent.

This is the whole of rollout semantics on one page, single-threaded, and the oracle that the TorchRL collector must
equal bit for bit in deterministic mode. Evaluation uses it as it is. Slot ``s`` plays tickets ``s, s+n, s+2n, ...``;
requests of a round are ordered by ticket; a slot whose tickets are used up drops out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Generation, Request, Sampling, act_many
from agents.recorder import Recorder
from retool_env.config import EnvConfig
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import EngineError
from retool_env.feeder import Feeder, ProblemSource
from retool_env.seeding import derive
from retool_env.trajectory import Trajectory

__all__ = ["Slots", "make_request", "play"]

Observation = dict[str, NDArray[np.int64]]


def make_request(observation: Observation, *, sampling_seed: int, stop: tuple[str, ...], sampling: Sampling) -> Request:
    """What the agent is asked in the state that the observation shows."""
    turn = int(observation["turn"][0])
    return Request(
        token_ids=observation["token_ids"],
        budget=int(observation["budget"][0]),
        stop=stop,
        sampling=sampling,
        seed=derive(sampling_seed, "turn", turn),
        session=int(observation["ticket"][0]),
        turn=turn,
    )


class Slots:
    """A fixed number of environments that play the tickets of a feeder in rounds.

    Args:
        feeder: its ``on_end`` must be the recorder's ``finish``.
        num_slots: environments, i.e. episodes in flight.
    """

    def __init__(
        self, feeder: Feeder, recorder: Recorder, agent: Agent, *, env: EnvConfig, num_slots: int, sampling: Sampling
    ) -> None:
        settings = env.model_dump()
        self._envs = [MathToolEnv(feeder=feeder, slot=s, num_slots=num_slots, **settings) for s in range(num_slots)]
        self._observations: list[Observation | None] = [None] * num_slots
        self._feeder, self._recorder, self._agent = feeder, recorder, agent
        self._sampling = sampling
        self._stop = self._envs[0].dialect.stop

    def run(self, first: int, count: int) -> Iterator[list[Trajectory]]:
        """Play tickets ``first .. first + count - 1``; yields what each round finished, in ticket order.

        Tickets are played once and in order, so ``first`` is where the last call stopped.
        """
        limit = first + count
        while True:
            for slot in range(len(self._envs)):
                self._refill(slot)
            live = [s for s, obs in enumerate(self._observations) if obs is not None and obs["ticket"][0] < limit]
            if not live:
                return
            yield self._round(sorted(live, key=self._ticket_of))

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _refill(self, slot: int) -> None:
        if self._observations[slot] is None:
            try:
                self._observations[slot], _ = self._envs[slot].reset()
            except StopIteration:
                return

    def _ticket_of(self, slot: int) -> int:
        observation = self._observations[slot]
        assert observation is not None
        return int(observation["ticket"][0])

    def _round(self, live: list[int]) -> list[Trajectory]:
        requests = [self._request(slot) for slot in live]
        try:
            generations = act_many(self._agent, requests)
        except EngineError:
            generations = [Generation.aborted() for _ in requests]
        for slot, generation in zip(live, generations, strict=True):
            self._recorder.add(self._ticket_of(slot), generation)
            observation, _, terminated, truncated, _ = self._envs[slot].step(generation.token_ids)
            self._observations[slot] = None if terminated or truncated else observation
        return self._recorder.drain()

    def _request(self, slot: int) -> Request:
        observation = self._observations[slot]
        assert observation is not None
        seed = self._envs[slot].ticket.sampling_seed
        return make_request(observation, sampling_seed=seed, stop=self._stop, sampling=self._sampling)


def play(
    source: ProblemSource,
    agent: Agent,
    *,
    env: EnvConfig,
    num_episodes: int,
    seed: int = 0,
    group_size: int = 1,
    num_slots: int = 64,
    sampling: Sampling | None = None,
    skip: Collection[int] = (),
    on_round: Callable[[list[Trajectory]], Any] | None = None,
) -> list[Trajectory]:
    """Play ``num_episodes`` episodes and return the new trajectories in ticket order.

    Args:
        skip: tickets that have been played already.
        on_round: called with the trajectories that each round finished (progress bars, files).
    """
    recorder = Recorder()
    feeder = Feeder(
        source, seed=seed, group_size=group_size, num_tickets=num_episodes, skip=skip, on_end=recorder.finish
    )
    num_slots = max(1, min(num_slots, num_episodes))
    slots = Slots(feeder, recorder, agent, env=env, num_slots=num_slots, sampling=sampling or Sampling())
    trajectories: list[Trajectory] = []
    try:
        for finished in slots.run(0, num_episodes):
            trajectories += finished
            if on_round is not None:
                on_round(finished)
    finally:
        slots.close()
    return sorted(trajectories, key=lambda trajectory: trajectory.ticket)
