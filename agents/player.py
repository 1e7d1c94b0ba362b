"""Plays whole groups of tickets with one agent: what a rollout worker does.

A group is given by its number; problems, seeds and limits follow from it and the plan, so a group that was lost with
its worker can be played by another one and is the same group. Nothing here knows who asks: a Ray actor, or a test.

Left out: gate and buffer, which belong to whoever gives out the groups.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

from agents.base import Agent, Sampling
from agents.free_slots import FreeSlots
from agents.recorder import Recorder
from retool_env.config import Config, EnvConfig, ProblemsConfig
from retool_env.envs.toolbox import SharedTools
from retool_env.feeder import Feeder
from retool_env.sources import open_source
from retool_env.trajectory import Trajectory

__all__ = ["GroupPlayer", "Plan"]


class Plan(Config):
    """What a worker has to know to play any group of a run.

    Attributes:
        seed: of the run.
        group_size: samples of a problem.
        problems: what is asked.
        env: the environment.
        sampling: how turns are sampled.
    """

    seed: int
    group_size: int
    problems: ProblemsConfig
    env: EnvConfig
    sampling: Sampling

    def feeder(self) -> Feeder:
        """All tickets of the run."""
        source = open_source(**self.problems.model_dump())
        return Feeder(source, seed=self.seed, group_size=self.group_size, shuffle=True)


class GroupPlayer:
    """Plays groups, several at a time. Thread-safe.

    It has a share in the process's sandbox from the beginning to :meth:`close`: the environments of a group give theirs
    back when it ends, and without another share the interpreters would start anew with every group.
    """

    def __init__(self, plan: Plan, agent: Agent) -> None:
        self._plan, self._agent = plan, agent
        self._source = open_source(**plan.problems.model_dump())
        self._tools = SharedTools(plan.env)

    def play(self, group: int, *, skip: Collection[int] = ()) -> list[Trajectory]:
        """The episodes of group ``group``, all at once; in ticket order, without those in ``skip``.

        Raises:
            UsageError: a mistake of the user that shows only now.
        """
        plan, recorder = self._plan, Recorder()
        feeder = Feeder(
            self._source,
            seed=plan.seed,
            group_size=plan.group_size,
            first=group * plan.group_size,
            num_tickets=(group + 1) * plan.group_size,
            shuffle=True,
            skip=skip,
            shared=True,
            on_end=recorder.finish,
        )
        slots = FreeSlots(
            feeder, recorder, self._agent, env=plan.env, num_slots=plan.group_size, sampling=plan.sampling
        )
        with closing(slots):
            played = [trajectory for finished in slots.run() for trajectory in finished]
        return sorted(played, key=lambda trajectory: trajectory.ticket)

    def close(self) -> None:
        """Give the sandbox back; idempotent."""
        self._tools.close()
