"""Advantages of a group by hand and by property; groups whose members come in any order, are old, or failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from algos.advantages import ADVANTAGES, dr_grpo, grpo, rloo
from algos.algo_config import AlgoConfig
from algos.groups import GroupBuffer, differs, split, withhold
from algos.learn import stop_if_broken
from algos.rollouts import RolloutState
from algos.shared_rollouts import collect
from retool_env.errors import InfrastructureError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord, RewardPart
from retool_env.trajectory import Trajectory
from retool_env.transcript import Span, Transcript
from retool_env.verifier.verdict import Verdict

PROBLEM = Problem(id="p", prompt="?", answer="1")


def trajectory(
    reward: float | None, *, group: int = 0, sample: int = 0, outcome: Outcome = Outcome.ANSWERED
) -> Trajectory:
    """Two prompt ids, two sampled, one of a tool, one sampled."""
    nan = np.nan
    transcript = Transcript(
        token_ids=np.arange(6, dtype=np.int64),
        action_mask=np.array([0, 0, 1, 1, 0, 1], dtype=np.bool_),
        logprobs=np.array([nan, nan, -1, -2, nan, -3], dtype=np.float32),
        policy_version=np.array([-1, -1, 0, 0, -1, 0]),
        spans=(
            Span(role="prompt", turn=0, start=0, end=2),
            Span(role="assistant", turn=0, start=2, end=4),
            Span(role="tool", turn=0, start=4, end=5),
            Span(role="assistant", turn=1, start=5, end=6),
        ),
    )
    record = EpisodeRecord(
        problem=PROBLEM,
        outcome=outcome,
        turns=("a", "b"),
        calls=(),
        verdict=None if outcome.failed else Verdict(correct=bool(reward and reward > 0), answered=True),
        num_action_tokens=3,
        reward_parts=(RewardPart(name="pm1", raw=reward, weight=1.0),),
    )
    return Trajectory(ticket=8 * group + sample, group=group, sample=sample, record=record, transcript=transcript)


def test_values_by_hand() -> None:
    rewards = np.array([1.0, 0.0, 0.0, 1.0])
    assert dr_grpo(rewards) == pytest.approx([0.5, -0.5, -0.5, 0.5])
    assert grpo(rewards) == pytest.approx(np.array([0.5, -0.5, -0.5, 0.5]) / (np.sqrt(1 / 3) + 1e-6))
    assert rloo(rewards) == pytest.approx([1 - 1 / 3, 0 - 2 / 3, 0 - 2 / 3, 1 - 1 / 3])


@given(arrays(np.float64, st.integers(1, 16), elements=st.floats(-5, 5)))
def test_advantages_are_centred_and_finite(rewards: np.ndarray) -> None:
    for name, advantage in ADVANTAGES.items():
        values = advantage(rewards)
        assert np.isfinite(values).all(), name
        assert abs(values.sum()) <= 1e-6 * max(1.0, np.abs(values).sum()), name
        if len(rewards) == 1:
            assert values.tolist() == [0.0], name


def test_a_group_is_complete_when_its_last_member_came() -> None:
    buffer = GroupBuffer(3)
    members = [trajectory(1.0, sample=k) for k in range(3)]
    for k in (2, 0):
        buffer.add(members[k])
        assert buffer.num_complete == 0
    assert buffer.waiting() == [members[0], members[2]]
    buffer.add(members[1])
    assert buffer.num_complete == 1
    assert buffer.take(1) == members
    assert (buffer.num_complete, buffer.waiting()) == (0, [])


@given(st.permutations([(group, sample) for group in range(4) for sample in range(2)]), st.integers(0, 8))
def test_a_step_takes_the_first_of_the_complete_groups(order: list[tuple[int, int]], arrived: int) -> None:
    buffer = GroupBuffer(2)
    for group, sample in order[:arrived]:
        buffer.add(trajectory(1.0, group=group, sample=sample))
    complete = [g for g in range(4) if {(g, 0), (g, 1)} <= set(order[:arrived])]
    assert buffer.num_complete == len(complete)
    taken = buffer.take(len(complete) // 2)
    assert [(t.group, t.sample) for t in taken] == [(g, k) for g in complete[: len(complete) // 2] for k in (0, 1)]
    assert len(buffer.waiting()) == arrived - len(taken)


def sampled_by(*versions: int, reward: float | None = 1.0, sample: int = 0) -> Trajectory:
    """A trajectory whose three sampled tokens are of these versions."""
    outcome = Outcome.ANSWERED if reward is not None else Outcome.ENGINE_OUTAGE
    made = trajectory(reward, sample=sample, outcome=outcome)
    policy_version = made.transcript.policy_version.copy()
    policy_version[made.transcript.action_mask] = versions
    return replace(made, transcript=replace(made.transcript, policy_version=policy_version))


def kept(*group: Trajectory, version: int = 5, max_age: int = 1, versions: str = "any") -> list[int]:
    ordered = [replace(member, ticket=k, sample=k) for k, member in enumerate(group)]
    return [t.sample for t in withhold(ordered, version=version, max_age=max_age, versions=versions)]


def test_one_old_token_withholds_a_trajectory() -> None:
    assert kept(sampled_by(5, 5, 5), sampled_by(4, 5, 5), sampled_by(3, 4, 5)) == [0, 1]
    assert kept(sampled_by(5, 5, 5), sampled_by(4, 5, 5), max_age=0) == [0]
    assert kept(sampled_by(-1, -1, -1), max_age=0) == [0], "what no policy sampled has no age"
    assert kept(sampled_by(0, 0, 0, reward=None)) == [0], "a failed member is excluded by its outcome, not here"


def test_a_group_of_one_version() -> None:
    four, five, both = sampled_by(4, 4, 4), sampled_by(5, 5, 5), sampled_by(4, 5, 5)
    assert kept(four, five, four, both, versions="same") == [0, 2]
    assert kept(four, five, versions="same") == [1], "of as many, the newer"
    assert kept(both, both, versions="same") == []
    assert kept(sampled_by(4, 4, 4, reward=None), sampled_by(4, 4, 4, reward=None), five, versions="same") == [0, 1, 2]


def test_a_step_that_mostly_failed_stops_the_run() -> None:
    failed = [trajectory(None, sample=k, outcome=Outcome.SANDBOX_OUTAGE) for k in range(3)]
    fine = [trajectory(1.0, sample=3 + k) for k in range(7)]
    stop_if_broken(failed + fine, 0.3)
    with pytest.raises(InfrastructureError, match=r"3 of 9 episodes of this step failed \(sandbox_outage 3\)"):
        stop_if_broken(failed + fine[1:], 0.3)


def test_dynamic_sampling_looks_at_verdicts_not_at_rewards() -> None:
    right, wrong = trajectory(1.0), trajectory(-1.0, sample=1)
    failed = trajectory(None, sample=2, outcome=Outcome.SANDBOX_OUTAGE)
    assert differs([right, wrong])
    assert differs([right, wrong, failed])
    assert not differs([right, failed])
    assert not differs([right, trajectory(0.5, sample=1)]), "both are right, one of them cheaper"


def test_groups_are_told_apart_by_their_number() -> None:
    members = [trajectory(1.0, group=k, sample=j) for k in (3, 4) for j in range(2)]
    assert split(members) == [members[:2], members[2:]]
    assert split([]) == []


class Given:
    """Rollouts whose groups of two are right once and wrong once where ``mixed`` says so, and right twice elsewhere."""

    def __init__(self, mixed: list[bool], *, num: int, most: int = 100) -> None:
        self.mixed, self.num, self.most = mixed, num, most
        self.next, self.asked = 0, list[int]()

    def collect(self, step: int) -> list[Trajectory]:
        return self._play(self.num)

    def more(self, num_groups: int) -> list[Trajectory]:
        self.asked.append(num_groups)
        return self._play(min(num_groups, self.most - self.next))

    def _play(self, num: int) -> list[Trajectory]:
        first, self.next = self.next, self.next + num
        return [
            trajectory(
                1.0 if sample == 0 or not self.mixed[group % len(self.mixed)] else -1.0, group=group, sample=sample
            )
            for group in range(first, self.next)
            for sample in range(2)
        ]

    def set_version(self, version: int) -> None: ...

    def state_dict(self) -> RolloutState:
        return RolloutState()

    def load_state_dict(self, state: RolloutState) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("mixed", "rounds", "asked"),
    [
        ([True], 3, []),  # nothing is missing
        ([True, True, True, False], 3, [1]),  # one is, and the next one differs
        ([True, False], 3, [2, 1]),  # two are; of the two that come one differs; the next does
        ([False], 3, [4, 4, 4]),  # none ever does: it ends with what there is, after so many rounds
        ([False], 1, [4]),
        ([True, False], 0, []),  # switched off
    ],
)
def test_dynamic_sampling_replaces_groups_and_ends(mixed: list[bool], rounds: int, asked: list[int]) -> None:
    rollouts = Given(mixed, num=4)
    taken = collect(rollouts, AlgoConfig(prompts_per_step=4, group_size=2, resample_rounds=rounds), step=0)
    assert rollouts.asked == asked
    assert [t.ticket for t in taken] == sorted(t.ticket for t in taken)
    assert len(taken) == 2 * (4 + sum(asked)), "what was played in vain is in it too, to be counted"
    assert sum(map(differs, split(taken))) <= 4


def test_dynamic_sampling_ends_where_nothing_more_is_played() -> None:
    rollouts = Given([False], num=4, most=4)
    taken = collect(rollouts, AlgoConfig(prompts_per_step=4, group_size=2, resample_rounds=9), step=0)
    assert (len(taken), rollouts.asked) == (8, [4])
