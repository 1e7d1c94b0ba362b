"""From trajectories to samples: who enters a baseline, who is trained on, and what is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from algos.alarms import Alarms
from algos.algo_config import AlgoConfig
from algos.batch import Sample, weighted
from algos.config import TrainConfig
from algos.credit import credit, scored_samples
from algos.groups import withhold
from algos.learn import select
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.record import RewardPart
from retool_env.trajectory import Trajectory
from tests.algos.test_groups import sampled_by, trajectory


def algo(**settings) -> AlgoConfig:
    return AlgoConfig(**({"advantage": {"name": "dr_grpo"}} | settings))


def samples_of(groups: Sequence[Sequence[Trajectory]], settings: AlgoConfig | None = None) -> tuple[list[Sample], dict]:
    settings = settings or algo()
    scored = scored_samples(groups, settings)
    rows, metrics = credit(scored, settings)
    return rows, scored.metrics | metrics


def values(rows: Sequence[Sample]) -> list[float]:
    """The advantage of each sample, which is that of all its trained tokens."""
    assert all(np.ptp(row.advantage[row.trained]) == 0 for row in rows)
    assert all((row.advantage[~row.trained] == 0).all() for row in rows)
    return [float(row.advantage[row.trained][0]) for row in rows]


def test_withheld_members_enter_no_baseline() -> None:
    old = sampled_by(1, 1, 1, reward=-1.0, sample=2)
    fresh = [sampled_by(5, 5, 5), sampled_by(5, 5, 5, reward=-1.0, sample=1)]
    with_old, _ = samples_of([withhold([*fresh, old], version=5, max_age=1)])
    without, _ = samples_of([fresh])
    assert values(with_old) == values(without) == [1.0, -1.0]


def test_failed_members_enter_no_baseline() -> None:
    failed = trajectory(None, sample=2, outcome=Outcome.SANDBOX_OUTAGE)
    group = [trajectory(1.0), trajectory(-1.0, sample=1)]
    with_failure, metrics = samples_of([[*group, failed]])
    without, _ = samples_of([group])
    assert values(with_failure) == values(without)
    assert metrics["groups/excluded_samples"] == 1


def test_groups_without_a_baseline_or_without_a_difference_are_left_out() -> None:
    alone = [trajectory(1.0), trajectory(None, sample=1, outcome=Outcome.ENGINE_OUTAGE)]
    equal = [trajectory(1.0, group=1), trajectory(1.0, group=1, sample=1)]
    rows, metrics = samples_of([alone, equal])
    assert [(row.order, row.read) for row in rows] == [(8, False), (9, False)], "the second is only counted"
    assert (metrics["groups/dropped"], metrics["groups/zero_spread"], metrics["groups/unused_samples"]) == (1, 1, 2)


def batch_of(num_differ: int, num: int = 20, size: int = 8) -> list[list[Trajectory]]:
    """Groups of which the first ones differ."""
    rewards = [[1.0, *[-1.0 if g < num_differ else 1.0] * (size - 1)] for g in range(num)]
    return [[trajectory(r, group=g, sample=k) for k, r in enumerate(row)] for g, row in enumerate(rewards)]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sequence_sum", 1 / (160 * 256)),  # B L of 2503.20783, B all samples of the batch
        ("token_mean", 1 / (160 * 3)),
        ("sequence_mean", 1 / (160 * 3)),
        ("prompt_mean", 1 / (20 * 24)),
    ],
)
def test_the_weight_of_a_token_does_not_depend_on_how_many_groups_agree(aggregation: str, expected: float) -> None:
    for num_differ in (20, 1):
        rows, _ = samples_of(batch_of(num_differ))
        weights = [s.weight for s in weighted(rows, aggregation, constant=256) if s.read]
        assert weights == pytest.approx([expected] * 8 * num_differ)


def test_filtered_samples_count_in_no_denominator() -> None:
    groups = batch_of(1, num=2, size=2)
    cut = [trajectory(-1.0, group=2, sample=0, outcome=Outcome.CONTEXT_FULL), trajectory(1.0, group=2, sample=1)]
    rows, _ = samples_of([*groups, cut], algo(mask_overlong=True))
    assert len(rows) == 5
    assert {s.weight for s in weighted(rows, "token_mean")} == {1 / 15}


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({}, 8),
        ({"kl": {"coef": 0.1}}, 160),
        ({"kl": {"coef": 0.0}}, 8),
        ({"entropy_coef": -0.1}, 160),
        ({"advantage": {"name": "reinforce_pp"}}, 160),
    ],
)
def test_samples_without_an_advantage_are_read_where_another_term_reads_them(settings: dict, read: int) -> None:
    rows, metrics = samples_of(batch_of(1), algo(**settings))
    assert (len(rows), sum(row.read for row in rows)) == (160, read)
    if "advantage" not in settings:
        assert metrics["critic/advantages/mean"] == pytest.approx(0.0, abs=1e-12)
        assert metrics["critic/advantages/max"] == pytest.approx(2 - 0.25)


def test_an_episode_without_a_trained_token_is_counted_and_never_read() -> None:
    silent = trajectory(-1.0, sample=1)
    transcript = silent.transcript
    none = replace(transcript, logprobs=np.full_like(transcript.logprobs, np.nan))
    silent = replace(silent, transcript=none)
    rows, _ = samples_of([[trajectory(1.0), silent]], algo(entropy_coef=0.1))
    assert [row.read for row in rows] == [True, False]
    assert samples_of([[silent, replace(silent, sample=0)]])[1].get("critic/advantages/mean") is None


def test_without_a_group_baseline_one_member_is_enough() -> None:
    alone = [trajectory(1.0), trajectory(None, sample=1, outcome=Outcome.ENGINE_OUTAGE)]
    other = [trajectory(-1.0, group=1), trajectory(-1.0, group=1, sample=1)]
    rows, metrics = samples_of([alone, other], algo(advantage={"name": "reinforce_pp"}))
    assert (len(rows), metrics["groups/dropped"]) == (3, 0)


def test_the_mask_ablation_trains_the_tool_tokens_too() -> None:
    group = [trajectory(1.0), trajectory(-1.0, sample=1)]
    masked, _ = samples_of([group])
    unmasked, _ = samples_of([group], algo(mask_tool_tokens=False))
    assert masked[0].trained.tolist() == [False, False, True, True, False, True]
    assert unmasked[0].trained.tolist() == [False, False, True, True, True, True]


def test_a_filtered_episode_stays_in_the_baseline() -> None:
    void = trajectory(-1.0, sample=1)
    void = replace(void, record=replace(void.record, num_void_turns=1))
    cut = trajectory(-1.0, sample=2, outcome=Outcome.CONTEXT_FULL)
    group = [trajectory(1.0), void, cut]
    rows, metrics = samples_of([group], algo(mask_void=True, mask_overlong=True))
    assert [row.order for row in rows] == [0]
    assert values(rows) == [pytest.approx(1 + 1 / 3)], "the mean is over all three"
    assert metrics["groups/filtered_samples"] == 2
    assert len(samples_of([group], algo(mask_void=True))[0]) == 2
    assert len(samples_of([group])[0]) == 3


def test_gdpo_gets_the_parts_with_their_weights() -> None:
    def two_parts(right: float, short: float, sample: int) -> Trajectory:
        made = trajectory(1.0, sample=sample)
        parts = (RewardPart(name="pm1", raw=right, weight=1.0), RewardPart(name="length", raw=short, weight=0.0))
        return replace(made, record=replace(made.record, reward_parts=parts))

    group = [two_parts(1.0, 0.0, 0), two_parts(-1.0, 5.0, 1)]
    rows, _ = samples_of([group], algo(advantage={"name": "gdpo"}))
    one, two = values(rows)
    assert one > 0 > two, "a part of weight 0 has no say"


def test_dynamic_sampling_trains_only_on_groups_that_differ() -> None:
    groups = [
        [trajectory(1.0), trajectory(0.5, sample=1)],
        [trajectory(1.0, group=1), trajectory(-1.0, group=1, sample=1)],
    ]
    taken = [t for group in groups for t in group]
    for rounds, expected in ((0, 4), (1, 2)):
        config = TrainConfig(algo=AlgoConfig(resample_rounds=rounds, prompts_per_step=2, group_size=2))
        scored = select(taken, config, step=0)
        assert (len(scored.samples), scored.metrics["groups/total"]) == (expected, 2)


@pytest.mark.parametrize("rounds", [0, 2])
def test_groups_without_a_spread_are_counted_before_dynamic_sampling_leaves_them_out(rounds: int) -> None:
    taken = [t for group in batch_of(2, num=6, size=4) for t in group]
    taken[-1] = trajectory(None, group=5, sample=3, outcome=Outcome.ENGINE_OUTAGE)
    config = TrainConfig(algo=AlgoConfig(resample_rounds=rounds, prompts_per_step=2, group_size=4))
    metrics = select(taken, config, step=0).metrics
    assert (metrics["groups/zero_spread"], metrics["groups/zero_spread_share"]) == (4, pytest.approx(4 / 6))
    assert (metrics["groups/total"], metrics["groups/dropped"], metrics["groups/excluded_samples"]) == (6, 0, 1)


def test_the_alarm_sees_what_dynamic_sampling_took_in_vain() -> None:
    taken = [t for group in batch_of(0, num=6, size=4) for t in group]
    config = TrainConfig(algo=AlgoConfig(resample_rounds=2, prompts_per_step=2, group_size=4))
    alarms = Alarms(has_tools=False, tolerance=1.0)
    said = [alarms.look(select(taken, config, step=0).metrics) for _ in range(5)]
    assert said[:4] == [[]] * 4
    assert "hardly a group differed" in said[4][0]


@pytest.mark.parametrize("name", ["gae", "vapo", "reinforce_pp"])
def test_dynamic_sampling_of_one_sample_is_refused(name: str) -> None:
    advantage = {"advantage": {"name": name}}
    with pytest.raises(ValueError, match=r"resample_rounds=2 with group_size=1: .* set resample_rounds=0, or"):
        algo(group_size=1, resample_rounds=2, **advantage)
    assert algo(group_size=2, resample_rounds=2, **advantage).resample_rounds == 2
    with pytest.raises(UsageError, match="resample_rounds"):
        compose("train", TrainConfig, ["algo=ppo", "algo.resample_rounds=2"])


def test_kl_cov_needs_a_second_update() -> None:
    with pytest.raises(ValueError, match=r"objective='kl_cov' with epochs=1 .* set minibatches=4, or epochs=2"):
        algo(objective={"name": "kl_cov"})
    assert algo(objective={"name": "kl_cov"}, epochs=2).epochs == 2
    assert algo(objective={"name": "clip_cov"}).minibatches == 1
    assert compose("train", TrainConfig, ["algo=kl_cov"]).algo.minibatches == 4


@pytest.mark.parametrize("name", ["gae", "vapo"])
def test_a_critic_gives_returns(name: str) -> None:
    settings = algo(advantage={"name": name, "options": {"normalise": 0}})
    scored = scored_samples([[trajectory(1.0), trajectory(-1.0, sample=1)]], settings)
    predicted = np.full(6, 0.25, dtype=np.float32)
    rows, metrics = credit(replace(scored, samples=[replace(s, values=predicted) for s in scored.samples]), settings)
    assert [row.returns[row.trained].tolist() for row in rows] == [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]
    assert metrics["critic/returns/max"] == 1.0
    assert metrics["critic/advantages/max"] == pytest.approx(0.75)


def test_a_penalty_on_the_reward_reads_the_reference() -> None:
    settings = algo(kl={"coef": 0.5, "place": "reward"})
    scored = scored_samples([[trajectory(1.0), trajectory(1.0, sample=1)]], settings)
    nearer = [replace(s, reference_logprobs=s.behaviour_logprobs - k) for k, s in enumerate(scored.samples)]
    rows, _ = credit(replace(scored, samples=nearer), settings)
    assert values(rows) == pytest.approx([0.75, -0.75]), "three tokens, each one nat further away, at half price"


def test_an_estimator_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(episodes):\n    return episodes.rewards / 2\n")
    rows, _ = samples_of(
        [[trajectory(1.0)], [trajectory(1.0, group=1)]], algo(advantage={"name": f"{tmp_path}/mine.py:half"})
    )
    assert values(rows) == [0.5, 0.5]
