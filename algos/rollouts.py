"""Where a trainer gets its trajectories: one small interface, and the plain loop behind it.

``set_version(v)`` says that the policy was updated ``v`` times, ``collect(step)`` gives the trajectories that a step
trains on. Steps are asked for in order, a step's version first::

    rollouts.load_state_dict(state)      # when a run goes on
    for step in range(first, last):
        rollouts.set_version(step)
        trajectories = rollouts.collect(step)
        ...

:class:`PlainRollouts` is the oracle, a loop over ``env.step`` in this thread. :mod:`algos.collector` is the way it
runs, :mod:`algos.store` reads what another run stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from agents.base import Agent, Sampling
from agents.recorder import Recorder
from agents.rollout import Slots
from retool_env.config import EnvConfig
from retool_env.feeder import Feeder, FeederState, OnEnd
from retool_env.trajectory import Trajectory

__all__ = ["PlainRollouts", "Replaying", "RolloutState", "Rollouts"]


class RolloutState(BaseModel):
    """What has to be kept of rollouts between two steps.

    Attributes:
        feeder: which tickets are finished; ``None`` when nothing is played.
        waiting: finished trajectories that no step has taken yet, a line of JSON each. Episodes that were not finished
            are played again from their tickets.
        extra: tickets that steps took beyond their share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feeder: FeederState | None = None
    waiting: tuple[str, ...] = ()
    extra: NonNegativeInt = 0


class Rollouts(Protocol):
    """Where a trainer gets its trajectories."""

    def collect(self, step: int) -> list[Trajectory]:
        """The trajectories of one training step, whole groups in ticket order.

        Raises:
            UsageError: a mistake of the user that shows only now.
        """
        ...

    def more(self, num_groups: int) -> list[Trajectory]:
        """Further groups for the step that was collected last, from the same version; none where nothing is played."""
        ...

    def set_version(self, version: int) -> None:
        """The policy has been updated ``version`` times and may be sampled from; called before every ``collect``."""
        ...

    def state_dict(self) -> RolloutState:
        """What :meth:`load_state_dict` needs to go on behind the last ``collect``."""
        ...

    def load_state_dict(self, state: RolloutState) -> None:
        """Go on where other rollouts were; called before the first ``set_version``.

        Raises:
            UsageError: the state is of a run with other problems, another seed or another group size.
        """
        ...

    def close(self) -> None:
        """End what runs; idempotent."""
        ...


@runtime_checkable
class Replaying(Rollouts, Protocol):
    """Rollouts that may lose episodes with the process that plays them, and play them again."""

    def take_lost(self) -> int:
        """Episodes that were lost so since the last call."""
        ...


class PlainRollouts:
    """Rounds over ``env.step`` in this thread; always on-policy.

    Args:
        make_feeder: from the listener to the feeder.
        num_slots: episodes in flight.
    """

    def __init__(
        self,
        make_feeder: Callable[[OnEnd], Feeder],
        agent: Agent,
        *,
        env: EnvConfig,
        sampling: Sampling,
        num_slots: int,
        tickets_per_step: int,
    ) -> None:
        recorder = Recorder()
        self._feeder = make_feeder(recorder.finish)
        self._slots = Slots(self._feeder, recorder, agent, env=env, num_slots=num_slots, sampling=sampling)
        self._tickets_per_step, self._extra, self._next = tickets_per_step, 0, 0

    def collect(self, step: int) -> list[Trajectory]:
        self._next = step * self._tickets_per_step + self._extra
        return self._play(self._tickets_per_step)

    def more(self, num_groups: int) -> list[Trajectory]:
        self._extra += num_groups * self._feeder.group_size
        return self._play(num_groups * self._feeder.group_size)

    def set_version(self, version: int) -> None:
        """Nothing waits for a version here."""

    def state_dict(self) -> RolloutState:
        return RolloutState.model_validate({"feeder": self._feeder.state_dict(), "extra": self._extra})

    def load_state_dict(self, state: RolloutState) -> None:
        self._extra = state.extra
        if state.feeder is not None:
            self._feeder.load_state_dict(state.feeder.model_dump())

    def close(self) -> None:
        self._slots.close()

    def _play(self, num_tickets: int) -> list[Trajectory]:
        rounds = self._slots.run(self._next, num_tickets)
        self._next += num_tickets
        return sorted((t for finished in rounds for t in finished), key=lambda trajectory: trajectory.ticket)
