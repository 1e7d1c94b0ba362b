"""What runs in a Ray worker's process: an agent of its own, which plays the groups that the driver gives out.

Nothing here imports Ray: the driver (:mod:`algos.ray_rollouts`) makes an actor of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from agents.base import Agent
from agents.config import AgentConfig
from agents.embedded import EmbeddedAgent
from agents.player import GroupPlayer, Plan
from agents.registry import AgentSetup, make_agent
from agents.sglang.agent import SGLangAgent
from algos.sync.export import load_weights
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory

__all__ = ["RolloutWorker"]


class RolloutWorker:
    """What runs in a worker's process; every method is called through Ray, several at a time.

    Args:
        plan: what is played.
        agent: who answers.
        threads: of torch.
        version: that the policy has already, and ``weights``: see :meth:`set_version`. Given here, because a call of
            its own would run side by side with the first groups.
    """

    def __init__(
        self,
        plan: Plan,
        agent: AgentConfig,
        threads: int | None,
        version: int | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._player, self._agent = _open(plan, agent, threads)
        if version is not None:
            self.set_version(version, weights)

    def play(self, group: int, skip: tuple[int, ...]) -> list[Trajectory]:
        return self._player.play(group, skip=skip)

    def set_version(self, version: int, weights: Mapping[str, Tensor] | None) -> None:
        """The policy has a new version: with these weights, or with what the servers have got."""
        if isinstance(self._agent, EmbeddedAgent):
            with self._agent.paused():
                if weights:
                    load_weights(self._agent.model, weights.items())
                self._agent.set_version(version)
        elif isinstance(self._agent, SGLangAgent):
            self._agent.adopt(version)

    def pid(self) -> int:
        """Of its process, on its machine."""
        return os.getpid()


def _open(plan: Plan, config: AgentConfig, threads: int | None) -> tuple[GroupPlayer, Agent]:
    source = open_source(**plan.problems.model_dump())
    agent = make_agent(AgentSetup(config=config, env=plan.env, source=source, seed=plan.seed, threads=threads))
    return GroupPlayer(plan, agent), agent
