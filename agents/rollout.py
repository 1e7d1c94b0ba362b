"""The plain loops over ``env.step``: in rounds, and every slot for itself.

:class:`Slots` is the whole of rollout semantics on one page, single-threaded: all live episodes of a round are one
batch of the agent. It is the oracle that the TorchRL collector must equal bit for bit in deterministic mode. Slot ``s``
plays tickets ``s, s+n, s+2n, ...``; requests of a round are ordered by ticket; a slot without tickets drops out.

An agent that takes one request at a time (a server, a chat endpoint, a person) would serve a round one by one.
:class:`~agents.free_slots.FreeSlots` gives each slot a thread for those. :func:`play` picks, and gives the same
trajectories in the same order wherever the agent's answers do not depend on who asks first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Generator, Iterator
from contextlib import closing

from agents.base import Agent, BatchAgent, Generation, Sampling, act_many
from agents.free_slots import FreeSlots
from agents.recorder import Recorder
from agents.requests import Asker, Observation, make_request
from retool_env.config import EnvConfig
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import EngineError
from retool_env.feeder import Feeder, ProblemSource
from retool_env.trajectory import Trajectory

__all__ = ["Slots", "make_request", "play", "play_rounds"]


class Slots:
    """A fixed number of environments that play the tickets of a feeder in rounds.

    Args:
        feeder: its ``on_end`` must be the recorder's ``finish``.
        num_slots: environments, i.e. episodes in flight.
        first_session: of the engine's sessions.
    """

    def __init__(
        self,
        feeder: Feeder,
        recorder: Recorder,
        agent: Agent,
        *,
        env: EnvConfig,
        num_slots: int,
        sampling: Sampling,
        first_session: int = 0,
    ) -> None:
        settings = env.model_dump()
        self._envs = [MathToolEnv(feeder=feeder, slot=s, num_slots=num_slots, **settings) for s in range(num_slots)]
        self._observations: list[Observation | None] = [None] * num_slots
        self._recorder, self._agent = recorder, agent
        self._asker = Asker(agent, env, sampling, first_session=first_session)

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
        asked = [(self._envs[slot], self._observations[slot]) for slot in live]
        requests = [self._asker.request(env, seen) for env, seen in asked if seen is not None]
        try:
            generations = act_many(self._agent, requests)
        except EngineError as error:
            for slot in live:
                self._recorder.explain(self._ticket_of(slot), str(error))
            generations = [Generation.aborted() for _ in requests]
        for slot, generation in zip(live, generations, strict=True):
            played = self._recorder.add(self._ticket_of(slot), generation)
            observation, _, terminated, truncated, _ = self._envs[slot].step(played.token_ids)
            self._observations[slot] = None if terminated or truncated else observation
        return self._recorder.drain()


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
    first_session: int = 0,
) -> list[Trajectory]:
    """Play ``num_episodes`` episodes and return the new trajectories in ticket order; see :func:`play_rounds`."""
    rounds = play_rounds(
        source,
        agent,
        env=env,
        num_episodes=num_episodes,
        seed=seed,
        group_size=group_size,
        num_slots=num_slots,
        sampling=sampling,
        skip=skip,
        first_session=first_session,
    )
    return sorted(itertools.chain.from_iterable(rounds), key=lambda trajectory: trajectory.ticket)


def play_rounds(
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
    first_session: int = 0,
) -> Generator[list[Trajectory]]:
    """Play ``num_episodes`` episodes; yields trajectories as they are finished, and keeps none.

    Close it where it is not read to its end (:func:`contextlib.closing`): slots may have threads.

    Args:
        num_slots: episodes in flight.
        skip: tickets that have been played already.
        first_session: of the engine's sessions; another one for episodes that run beside others in the same engine.
    """
    recorder = Recorder()
    batched = isinstance(agent, BatchAgent)
    feeder = Feeder(
        source,
        seed=seed,
        group_size=group_size,
        num_tickets=num_episodes,
        skip=skip,
        shared=not batched,
        on_end=recorder.finish,
    )
    num_slots = max(1, min(num_slots, num_episodes))
    make = functools.partial(Slots if batched else FreeSlots, feeder, recorder, agent, env=env, num_slots=num_slots)
    with closing(make(sampling=sampling or Sampling(), first_session=first_session)) as slots:
        yield from slots.run(0, num_episodes) if isinstance(slots, Slots) else slots.run()
