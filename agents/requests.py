"""From what an environment shows to what an agent is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, Request, Sampling
from agents.conversation import conversation
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.math_tool import MathToolEnv
from retool_env.envs.toolbox import tool_specs
from retool_env.problems import Message
from retool_env.seeding import derive
from retool_env.tools import ToolSpec

__all__ = ["Asker", "Observation", "make_request"]

Observation = dict[str, NDArray[np.int64]]


def make_request(
    observation: Observation,
    *,
    sampling_seed: int,
    stop: tuple[str, ...],
    sampling: Sampling,
    group: int = 0,
    first_session: int = 0,
    messages: Sequence[Message] = (),
    tools: Sequence[ToolSpec] = (),
) -> Request:
    """What the agent is asked in the state that the observation shows.

    Args:
        sampling_seed: of the episode.
        group: of the episode.
        first_session: sessions and groups are counted from here, to tell kinds of episodes apart in one engine.
        messages: the episode as a conversation, and its tools: only for agents that read them.
    """
    turn = int(observation["turn"][0])
    return Request(
        token_ids=observation["token_ids"],
        budget=int(observation["budget"][0]),
        stop=stop,
        sampling=sampling,
        seed=derive(sampling_seed, "turn", turn),
        session=first_session + int(observation["ticket"][0]),
        group=first_session + group,
        turn=turn,
        messages=tuple(messages),
        tools=tuple(tools),
    )


class Asker:
    """Makes the requests for one agent and one kind of environment; thread-safe."""

    def __init__(self, agent: Agent, env: EnvConfig, sampling: Sampling, *, first_session: int = 0) -> None:
        self._reads = bool(getattr(agent, "reads_messages", False))
        self._tools = tool_specs(env) if self._reads else ()
        self._stop = make_dialect(env.dialect, instructions=env.instructions).stop
        self._sampling, self._first_session = sampling, first_session

    def request(self, env: MathToolEnv, observation: Observation) -> Request:
        """The request for the next turn of the episode that runs in ``env``."""
        return make_request(
            observation,
            sampling_seed=env.ticket.sampling_seed,
            stop=self._stop,
            sampling=self._sampling,
            group=env.ticket.group,
            first_session=self._first_session,
            messages=conversation(env.episode, self._tools) if self._reads else (),
            tools=self._tools,
        )
