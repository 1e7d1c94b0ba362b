"""Slots that do not wait for each other: one thread each, one request in flight each.

For agents that take one request at a time and serve many at once: a server, a chat endpoint. Which slot plays which
ticket depends on who is free; what is played, and with which seeds, does not.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Iterator

from agents.base import Agent, Generation, Sampling, act_many
from agents.recorder import Recorder
from agents.requests import Asker, Observation
from retool_env.config import EnvConfig
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import EngineError
from retool_env.feeder import Feeder
from retool_env.sandbox import Cancel
from retool_env.trajectory import Trajectory

__all__ = ["FreeSlots"]


class FreeSlots:
    """A fixed number of environments, each in a thread of its own.

    Args:
        feeder: its ``on_end`` must be the recorder's ``finish``; ``shared``, so that every ticket is there for whoever
            is free.
        num_slots: episodes in flight.
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
        self._recorder, self._agent = recorder, agent
        self._asker = Asker(agent, env, sampling, first_session=first_session)
        self._news: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._stop = Cancel()
        self._threads: list[threading.Thread] = []

    def run(self) -> Iterator[list[Trajectory]]:
        """Play all of the feeder's tickets; yields trajectories as they are finished.

        The first exception of a slot is raised here.
        """
        for env in self._envs:
            thread = threading.Thread(target=self._slot, args=(env,), name="slot", daemon=True)
            self._threads.append(thread)
            thread.start()
        while any(thread.is_alive() for thread in self._threads) or not self._news.empty():
            try:
                failure = self._news.get(timeout=0.2)
            except queue.Empty:
                continue
            if failure is not None:
                raise failure
            if finished := self._recorder.drain():
                yield finished

    def close(self) -> None:
        """End what runs: turns in flight are cancelled, and what came of them is dropped with their episodes."""
        self._stop()
        for thread in self._threads:
            thread.join()
        for env in self._envs:
            env.close()

    def _slot(self, env: MathToolEnv) -> None:
        try:
            while not self._stop.cancelled:
                try:
                    observation, _ = env.reset()
                except StopIteration:
                    break
                self._episode(env, observation)
        except BaseException as error:  # noqa: BLE001 - raised again by run(), in the thread that waits for it
            self._news.put(error)

    def _episode(self, env: MathToolEnv, observation: Observation) -> None:
        ended = False
        while not ended:
            request = dataclasses.replace(self._asker.request(env, observation), cancel=self._stop)
            try:
                (generation,) = act_many(self._agent, [request])
            except EngineError as error:
                self._recorder.explain(env.ticket.index, str(error))
                generation = Generation.aborted()
            if self._stop.cancelled:
                return
            played = self._recorder.add(env.ticket.index, generation)
            observation, _, terminated, truncated, _ = env.step(played.token_ids)
            ended = terminated or truncated
        self._news.put(None)
