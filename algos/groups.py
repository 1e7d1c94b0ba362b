"""Groups: where the samples of one problem wait for each other, and which of them are trained on.

A group is complete when every member is finished, whatever became of it. Two kinds of members are left out of it, and
counted: those that infrastructure ended, which have no reward, and those that are withheld because of the policy that
sampled them (:func:`withhold`). They never enter the baseline, and none of them ever counts as a reward of 0. A group
that is left with fewer than two members has no baseline; it is dropped and counted. (TorchRL's ``MCAdvantage`` would
wait for ever for a member that does not come.)

**Age.** The age of a token is the version that is being trained minus the version that sampled it. With a bound of 0
every trained token was sampled by the very weights that the step's first update starts from.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from retool_env.trajectory import Trajectory

__all__ = ["GroupBuffer", "differs", "split", "withhold"]


class GroupBuffer:
    """Finished trajectories that no step has taken yet. Thread-safe.

    Args:
        group_size: members of a group.
    """

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self._groups: dict[int, dict[int, Trajectory]] = defaultdict(dict)
        self._lock = threading.Lock()

    def add(self, trajectory: Trajectory) -> None:
        """A finished trajectory, in any order."""
        with self._lock:
            members = self._groups[trajectory.group]
            assert trajectory.sample not in members, f"sample {trajectory.sample} of group {trajectory.group} twice"
            members[trajectory.sample] = trajectory

    @property
    def num_complete(self) -> int:
        """Groups that have all their members."""
        with self._lock:
            return len(self._complete())

    def take(self, num_groups: int) -> list[Trajectory]:
        """The trajectories of the first complete groups, in ticket order; others may still be on their way before
        them."""
        with self._lock:
            taken = self._complete()[:num_groups]
            assert len(taken) == num_groups, f"{len(taken)} groups are complete, {num_groups} are wanted"
            members = [self._groups.pop(group) for group in taken]
        return [group[sample] for group in members for sample in sorted(group)]

    def waiting(self) -> list[Trajectory]:
        """Everything that is held, in ticket order; it stays."""
        with self._lock:
            held = [trajectory for members in self._groups.values() for trajectory in members.values()]
        return sorted(held, key=lambda trajectory: trajectory.ticket)

    def _complete(self) -> list[int]:
        return sorted(group for group, members in self._groups.items() if len(members) == self.group_size)


def split(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The groups of trajectories that are in ticket order."""
    return [list(members) for _, members in itertools.groupby(trajectories, key=lambda t: t.group)]


def differs(group: Sequence[Trajectory]) -> bool:
    """Whether some scored members are right and others wrong: what dynamic sampling looks for (DAPO, 2503.14476)."""
    return len({t.record.correct for t in group if t.scored}) > 1


def withhold(
    group: Sequence[Trajectory], *, version: int, max_age: int, versions: Literal["any", "same"] = "any"
) -> list[Trajectory]:
    """The group without the scored members that must not be trained on because of who sampled them.

    Args:
        version: that is being trained.
        max_age: members with a sampled token older than this are left out.
        versions: ``"same"`` also leaves out members that span an update and, where members are of different versions,
            all but those of the version that most of them have; of the newest, if that is more than one.
    """
    young = [t for t in group if not t.scored or version - min(_versions(t), default=version) <= max_age]
    if versions == "any":
        return young
    counts = Counter(v for t in young if t.scored and len(seen := _versions(t)) == 1 for v in seen)
    chosen = max(counts, key=lambda candidate: (counts[candidate], candidate), default=None)
    return [t for t in young if not t.scored or _versions(t) <= {chosen}]


def _versions(trajectory: Trajectory) -> set[int]:
    """Of the tokens that a policy sampled; what was written has none."""
    return set(trajectory.transcript.policy_version.tolist()) - {-1}
