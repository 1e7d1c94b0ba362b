"""Rollouts for several ranks: the first one collects, all get the trajectories.

One collector, one gate and one feeder for the whole run, because a trajectory is small beside what it takes to make
it: a step of 512 problems and 16 samples of 8,000 tokens is about a gigabyte on the wire, once. Where one process is
not enough to keep the engines busy, ``rollout.ray.workers`` plays in more of them.

An error of the first rank is raised on all, so that none waits for one that is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from algos.algo_config import AlgoConfig
from algos.groups import differs, split
from algos.policy.world import World
from algos.rollouts import Replaying, Rollouts, RolloutState
from retool_env.trajectory import Trajectory

__all__ = ["SharedRollouts", "collect"]


class SharedRollouts:
    """Implements :class:`~algos.rollouts.Rollouts` on every rank.

    Args:
        rollouts: of the first rank; ``None`` on the others.
    """

    def __init__(self, rollouts: Rollouts | None, world: World) -> None:
        assert (rollouts is not None) == world.is_main, "the first rank collects"
        self._rollouts, self._world = rollouts, world

    def collect(self, step: int) -> list[Trajectory]:
        return self._from_main(lambda rollouts: rollouts.collect(step))

    def more(self, num_groups: int) -> list[Trajectory]:
        return self._from_main(lambda rollouts: rollouts.more(num_groups))

    def set_version(self, version: int) -> None:
        if self._rollouts is not None:
            self._rollouts.set_version(version)

    def state_dict(self) -> RolloutState:
        """Empty on all ranks but the first."""
        return self._rollouts.state_dict() if self._rollouts is not None else RolloutState()

    def load_state_dict(self, state: RolloutState) -> None:
        if self._rollouts is not None:
            self._rollouts.load_state_dict(state)

    def take_lost(self) -> int:
        """See :class:`~algos.rollouts.Replaying`; 0 on all ranks but the first."""
        return self._rollouts.take_lost() if isinstance(self._rollouts, Replaying) else 0

    def close(self) -> None:
        if self._rollouts is not None:
            self._rollouts.close()

    def _from_main(self, action: Callable[[Rollouts], list[Trajectory]]) -> list[Trajectory]:
        result: list[Trajectory] | Exception = []
        if self._rollouts is not None:
            try:
                result = action(self._rollouts)
            except Exception as error:  # noqa: BLE001 - raised again below, on every rank
                result = error
        result = self._world.from_main(result)
        if isinstance(result, Exception):
            raise result
        return result


def collect(rollouts: Rollouts, algo: AlgoConfig, *, step: int) -> list[Trajectory]:
    """The trajectories of a step, in ticket order, with what dynamic sampling adds to them."""
    trajectories: Sequence[Trajectory] = rollouts.collect(step)
    for _ in range(algo.resample_rounds):
        missing = algo.prompts_per_step - sum(differs(group) for group in split(trajectories))
        further = rollouts.more(missing) if missing > 0 else []
        if not further:
            break
        trajectories = sorted([*trajectories, *further], key=lambda trajectory: trajectory.ticket)
    return list(trajectories)
