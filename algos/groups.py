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

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from algos.advantages import ADVANTAGES
from algos.batch import Sample
from retool_env.trajectory import Trajectory

__all__ = ["GroupBuffer", "GroupStats", "samples_of", "withhold"]


@dataclass(frozen=True, kw_only=True)
class GroupStats:
    """What became of the groups of one step."""

    num_groups: int
    num_zero_spread: int
    num_dropped: int
    num_excluded: int


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


def samples_of(
    groups: Iterable[Sequence[Trajectory]], *, advantage: str, mask_tool_tokens: bool
) -> tuple[list[Sample], GroupStats]:
    """Training samples of complete groups.

    Args:
        groups: without the members that are withheld.
        advantage: name in :data:`algos.advantages.ADVANTAGES`.
        mask_tool_tokens: off, the interpreter's tokens are trained on as if the policy had written them. An ablation,
            to be looked at rather than used.
    """
    samples: list[Sample] = []
    counts = {"num_groups": 0, "num_zero_spread": 0, "num_dropped": 0, "num_excluded": 0}
    for group in groups:
        counts["num_groups"] += 1
        members = [t for t in group if t.scored]
        counts["num_excluded"] += len(group) - len(members)
        rewards = np.array([t.record.reward for t in members], dtype=np.float64)
        if len(members) < 2:
            counts["num_dropped"] += 1
        elif np.ptp(rewards) == 0:
            counts["num_zero_spread"] += 1
        else:
            values = ADVANTAGES[advantage](rewards)
            samples += [_sample(t, float(v), mask_tool_tokens) for t, v in zip(members, values, strict=True)]
    return samples, GroupStats(**counts)


def _sample(trajectory: Trajectory, advantage: float, mask_tool_tokens: bool) -> Sample:
    transcript = trajectory.transcript
    trained = np.isfinite(transcript.logprobs)
    if not mask_tool_tokens:
        trained = np.arange(len(transcript)) >= transcript.prompt_length
    return Sample(
        token_ids=transcript.token_ids,
        trained=trained,
        behaviour_logprobs=transcript.logprobs,
        advantage=advantage,
        order=trajectory.ticket,
    )
