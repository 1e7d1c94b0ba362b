"""The group buffer: samples of one problem wait here until all are there.

A group is complete when every member is finished or excluded. Members that infrastructure ended are excluded: they
never enter the baseline. A group that is left with fewer than two scored members has no baseline; it is dropped and
counted. (TorchRL's ``MCAdvantage`` would wait for ever for a member that does not come.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from algos.advantages import ADVANTAGES
from algos.batch import Sample
from retool_env.trajectory import Trajectory

__all__ = ["GroupBuffer", "GroupStats", "samples_of"]


@dataclass(frozen=True, kw_only=True)
class GroupStats:
    """What became of the groups of one step."""

    num_groups: int
    num_zero_spread: int
    num_dropped: int
    num_excluded: int


class GroupBuffer:
    """Collects trajectories by group.

    Args:
        group_size: members of a group.
    """

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self._waiting: dict[int, dict[int, Trajectory]] = defaultdict(dict)

    def add(self, trajectory: Trajectory) -> list[Trajectory] | None:
        """The complete group in sample order when this was its last member, else ``None``."""
        members = self._waiting[trajectory.group]
        assert trajectory.sample not in members, f"sample {trajectory.sample} of group {trajectory.group} came twice"
        members[trajectory.sample] = trajectory
        if len(members) < self.group_size:
            return None
        del self._waiting[trajectory.group]
        return [members[sample] for sample in sorted(members)]

    def __len__(self) -> int:
        """Groups that wait for members."""
        return len(self._waiting)


def samples_of(
    groups: Iterable[list[Trajectory]], *, advantage: str, mask_tool_tokens: bool
) -> tuple[list[Sample], GroupStats]:
    """Training samples of complete groups.

    Args:
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
