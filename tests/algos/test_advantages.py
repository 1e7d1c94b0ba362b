"""Advantages by hand, by independent formula and by property; tokens that the policy did not write are no steps."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.objectives.value.functional import generalized_advantage_estimate

import algos.advantages
from algos.advantages import ADVANTAGES, ESTIMATORS, Credit, Episodes, make_advantage, maxrl, needs_critic
from retool_env.errors import UsageError

NAN = np.nan


def episodes(
    rewards: list[float],
    groups: list[int] | None = None,
    *,
    masks: list[list[int]] | None = None,
    **extra: object,
) -> Episodes:
    masks = masks or [[0, 1, 1]] * len(rewards)
    return Episodes(
        rewards=np.array(rewards, dtype=np.float64),
        groups=np.array(groups or [0] * len(rewards)),
        trained=[np.array(mask, dtype=np.bool_) for mask in masks],
        **extra,
    )


def per_episode(credit: Credit, of: Episodes) -> list[float]:
    """The one value that all trained tokens of an episode have."""
    values = []
    for row, mask in zip(credit.advantages, of.trained, strict=True):
        assert (row[~mask] == 0).all()
        assert (row[mask] == row[mask][0]).all()
        values.append(float(row[mask][0]))
    return values


def check(name: str, of: Episodes, expected: list[float], used: list[bool] | None = None, **options: float) -> None:
    credit = make_advantage(name, **options)(of)
    assert per_episode(credit, of) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert credit.used.tolist() == (used or [True] * len(of))


TWO_GROUPS = ([1.0, 0.0, 0.0, 3.0, 1.0, 1.0], [0, 0, 0, 1, 2, 2])


def test_group_advantages_by_hand() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0]
    check("grpo", episodes(rewards), [x / ((1 / 3) ** 0.5 + 1e-6) for x in (0.5, -0.5, -0.5, 0.5)])
    check("dr_grpo", episodes(rewards), [0.5, -0.5, -0.5, 0.5])
    check("rloo", episodes(rewards), [2 / 3, -2 / 3, -2 / 3, 2 / 3])
    check("maxrl", episodes([1.0, 0.0, 0.0, 0.0]), [x / (0.25 + 1e-6) for x in (0.75, -0.25, -0.25, -0.25)])


@pytest.mark.parametrize("function", [*ADVANTAGES.values(), maxrl])
def test_equal_rewards_leave_no_remainder(function: Callable[[np.ndarray], np.ndarray]) -> None:
    """The mean of three times 0.1 is not 0.1, and the quotient of the remainder would be a direction to learn."""
    assert (np.full(3, 0.1) - np.full(3, 0.1).mean()).any()
    assert function(np.full(3, 0.1)).tolist() == [0.0] * 3


def test_one_failure_among_eight_weighs_as_the_field_says() -> None:
    """The bias of dividing by the standard deviation: the single failure has -2.47."""
    of = episodes([0.0] + [1.0] * 7)
    assert per_episode(make_advantage("grpo")(of), of)[0] == pytest.approx(-2.47, abs=0.005)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "maxrl", "lite_ppo", "reinforce_pp_baseline"])
def test_groups_do_not_mix_and_those_without_a_difference_are_not_used(name: str) -> None:
    of = episodes(*TWO_GROUPS)
    credit = make_advantage(name)(of)
    values = per_episode(credit, of)
    assert credit.used.tolist() == [True, True, True, False, False, False]
    assert values[3:] == [0.0, 0.0, 0.0]
    assert values[0] > values[1] == values[2]


def test_statistics_of_the_batch_by_hand() -> None:
    rewards, groups = TWO_GROUPS
    spread = np.std(rewards, ddof=1) + 1e-6
    check(
        "lite_ppo",
        episodes(rewards, groups),
        [2 / 3 / spread, -1 / 3 / spread, -1 / 3 / spread, 0, 0, 0],
        used=[True] * 3 + [False] * 3,
    )
    # One token more in the first episode: whitening counts tokens.
    masks = [[0, 1, 1, 1], *[[0, 1, 1]] * 5]
    tokens = np.array([2 / 3] * 3 + [-1 / 3] * 4 + [0.0] * 6)
    mean, spread = tokens.mean(), tokens.std(ddof=1) + 1e-6
    check(
        "reinforce_pp_baseline",
        episodes(rewards, groups, masks=masks),
        [(2 / 3 - mean) / spread, *[(-1 / 3 - mean) / spread] * 2, 0, 0, 0],
        used=[True] * 3 + [False] * 3,
    )


def test_gdpo_standardises_every_part() -> None:
    """Two parts of very different size count alike; in grpo the large one would drown the small."""
    parts = {"big": np.array([100.0, 0.0, 100.0, 0.0]), "small": np.array([0.0, 0.0, 1.0, 1.0])}
    of = episodes([100.0, 0.0, 101.0, 1.0], parts=parts, part_weights={"big": 1.0, "small": 3.0})
    large, small = (0.5 * x / (x / 3**0.5 + 1e-6) for x in (100, 1))
    total = np.array([large - 3 * small, -large - 3 * small, large + 3 * small, -large + 3 * small])
    check("gdpo", of, list(total / (total.std(ddof=1) + 1e-6)))
    equal = episodes([1.0, 1.0], parts={"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])})
    assert make_advantage("gdpo")(equal).used.all(), "the sum is the same, the parts are not"
    with pytest.raises(UsageError, match="needs the parts"):
        make_advantage("gdpo")(episodes([1.0, 0.0]))


@pytest.mark.parametrize("coef", [0.01, 2.0])
def test_a_kl_penalty_keeps_its_coefficient_in_gdpo(coef: float) -> None:
    """Nats of the trained tokens, 2, 4, 1 and 5, are taken off in units of the advantage, centred in each group."""
    masks = [[0, 1, 1]] * 4
    kl = [np.array([9.0, 1.5, 0.5]), np.array([9.0, 4.0, 0.0]), np.array([9.0, 0.5, 0.5]), np.array([9.0, 2.0, 3.0])]
    settings = {"groups": [0, 0, 1, 1], "masks": masks, "kl": kl, "kl_coef": coef}
    same = episodes([1.0] * 4, parts={"a": np.ones(4)}, **settings)
    check("gdpo", same, [coef, -coef, 2 * coef, -2 * coef])
    parts = {"a": np.array([1.0, 0.0, 0.0, 1.0])}
    one = 3**0.5 / 2  # of 1, -1, -1, 1, whatever the size: over the unbiased deviation
    mixed = episodes([1.0, 0.0, 0.0, 1.0], parts=parts, **settings)
    check("gdpo", mixed, [one + coef, -one - coef, -one + 2 * coef, one - 2 * coef])


def test_maxrl_refuses_negative_rewards() -> None:
    with pytest.raises(UsageError, match="maxrl got reward -1: it needs rewards >= 0"):
        maxrl(np.array([1.0, -1.0]))


# The example of pitfall 1: two actions, three tokens of a tool, two actions.
GAP = [1, 1, 0, 0, 0, 1, 1]
GAP_VALUES = np.array([0.3, 0.35, 0.9, 0.1, 0.8, 0.6, 0.7])


def gap_episode(**extra: object) -> Episodes:
    return episodes([1.0], masks=[GAP], values=[GAP_VALUES], **extra)


def test_an_observation_costs_no_discount_and_carries_no_error() -> None:
    credit = make_advantage("gae", lam=0.95, normalise=False)(gap_episode())
    assert credit.advantages[0][0] == pytest.approx(0.635, abs=5e-4)
    assert credit.returns is not None
    assert credit.returns[0][0] == pytest.approx(0.635 + 0.3, abs=5e-4)
    discounted = make_advantage("gae", gamma=0.5, lam=0.0, normalise=False)(gap_episode())
    assert discounted.advantages[0][1] == pytest.approx(0.5 * 0.6 - 0.35), "the next value is the next action's"


def test_the_reward_reaches_the_turn_that_called_the_tool() -> None:
    """A return-to-go that started anew behind an observation would leave the first turn with nothing."""
    of = episodes([1.0, 0.0], [0, 1], masks=[GAP, [0, 1, 1, 1, 1, 0, 0]])
    credit = make_advantage("reinforce_pp")(of)
    assert credit.advantages[0][:2] == pytest.approx(credit.advantages[0][5:])
    assert credit.advantages[0][0] > 0 > credit.advantages[1][1]
    decayed = make_advantage("reinforce_pp", gamma=0.5)(of).advantages[0][[0, 1, 5, 6]]
    returns = np.array([0.125, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert decayed == pytest.approx((returns[:4] - returns.mean()) / returns.std(ddof=1), abs=1e-5)


def test_a_transcript_that_ends_behind_a_tool_pays_its_last_action() -> None:
    ends_in_tool = episodes([1.0], masks=[[1, 1, 0, 0]], values=[np.array([0.2, 0.4, 9.0, 9.0])])
    credit = make_advantage("gae", gamma=0.0, lam=0.0, normalise=False)(ends_in_tool)
    assert credit.advantages[0].tolist() == pytest.approx([-0.2, 0.6, 0.0, 0.0])


def test_vapo_has_two_lambdas() -> None:
    masks = [[1] * 40]
    rng = np.random.default_rng(0)
    of = episodes([1.0], masks=masks, values=[rng.normal(size=40)])
    credit = make_advantage("vapo", normalise=False)(of)
    policy = make_advantage("gae", lam=1 - 1 / (0.05 * 40), normalise=False)(of)
    critic = make_advantage("gae", lam=1.0, normalise=False)(of)
    assert credit.advantages[0] == pytest.approx(policy.advantages[0])
    assert credit.returns is not None and critic.returns is not None
    assert credit.returns[0] == pytest.approx(critic.returns[0])
    assert credit.returns[0] == pytest.approx(np.ones(40)), "with lambda 1 the return is the reward"
    short = episodes([1.0], masks=[[1] * 10], values=[np.zeros(10)])
    assert make_advantage("vapo", normalise=False)(short).advantages[0].tolist() == [0.0] * 9 + [1.0]


def test_a_kl_penalty_counts_at_trained_tokens_only() -> None:
    kl = [np.array([0.1, 0.2, 50.0, 50.0, 50.0, 0.3, 0.4]), np.array([50.0, 0.5, 0.0, 50.0])]
    of = episodes([1.0, 1.0], masks=[GAP, [0, 1, 1, 0]], kl=kl, kl_coef=0.5, values=[np.zeros(7), np.zeros(4)])
    assert of.total_rewards == pytest.approx([1 - 0.5 * 1.0, 1 - 0.5 * 0.5])
    assert per_episode(make_advantage("dr_grpo")(of), of) == pytest.approx([-0.125, 0.125])
    assert make_advantage("dr_grpo")(of).used.all()
    credit = make_advantage("gae", normalise=False)(of)
    assert credit.advantages[0][[0, 1, 5, 6]] == pytest.approx([0.5, 0.55, 0.65, 0.8])
    assert not make_advantage("dr_grpo")(episodes([1.0, 1.0])).used.any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_names_its_source(name: str) -> None:
    function = ESTIMATORS[name]
    source = function.keywords["function"] if isinstance(function, functools.partial) else function
    assert re.search(r"\(\d{4}\.\d{5}\)", source.__doc__), name
    assert re.search(rf"^{name} ", algos.advantages.__doc__ or "", re.MULTILINE), "the table has all of them"


@st.composite
def steps(draw: st.DrawFn, *, least: int = 0) -> Episodes:
    """Some episodes of random masks, values and penalties."""
    num = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = [rng.random(rng.integers(1, 12)) < draw(st.floats(0, 1)) for _ in range(num)]
    for mask in masks[:least]:
        mask[-1] = True
    rewards = rng.choice([0.0, 0.1, 0.3, 1.0], num)
    return Episodes(
        rewards=rewards,
        groups=rng.integers(0, 3, num),
        trained=masks,
        parts={"only": rewards},
        values=[rng.normal(size=len(mask)) for mask in masks],
        kl=[rng.normal(size=len(mask)) for mask in masks],
        kl_coef=draw(st.sampled_from([0.0, 0.1])),
    )


def stretched(of: Episodes, rng: np.random.Generator) -> tuple[Episodes, list[np.ndarray]]:
    """The same with tokens of a tool put in anywhere, their values and penalties absurd; and where the old ones are."""
    places, masks, values, kl = [], [], [], []
    for k, mask in enumerate(of.trained):
        old = np.sort(rng.choice(len(mask) + 9, len(mask), replace=False))
        places.append(old)
        for out, source, other in ((masks, of.trained, False), (values, of.values, 1e6), (kl, of.kl, NAN)):
            row = np.full(len(mask) + 9, other)
            row[old] = source[k]
            out.append(row)
    return replace(of, trained=masks, values=values, kl=kl), places


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(deadline=None)
@given(of=steps(), seed=st.integers(0, 100))
def test_what_a_tool_wrote_changes_nothing(name: str, of: Episodes, seed: int) -> None:
    """Invariants 3 and 4, for every estimator: observations anywhere, of any length, with any value."""
    options = {"gamma": 0.9, "lam": 0.8} if name == "gae" else {}
    if name == "maxrl":  # a penalty would make rewards negative
        of = replace(of, kl_coef=0.0)
    plain = make_advantage(name, **options)(of)
    longer, places = stretched(of, np.random.default_rng(seed))
    other = make_advantage(name, **options)(longer)
    assert other.used.tolist() == plain.used.tolist()
    for k, place in enumerate(places):
        assert np.isfinite(plain.advantages[k]).all()
        assert other.advantages[k][place] == pytest.approx(plain.advantages[k], rel=1e-9, abs=1e-12)
        assert other.advantages[k].sum() == pytest.approx(plain.advantages[k].sum(), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(of=steps(least=6), gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_gae_is_that_of_torchrl_on_the_compressed_sequence(of: Episodes, gamma: float, lam: float) -> None:
    credit = make_advantage("gae", gamma=gamma, lam=lam, normalise=False)(of)
    assert credit.returns is not None
    for k, (mask, rewards) in enumerate(zip(of.trained, of.token_rewards(), strict=True)):
        value = torch.tensor(of.values[k][mask])[:, None]
        following = torch.cat([value[1:], torch.zeros(1, 1, dtype=torch.float64)])
        done = torch.zeros(len(value), 1, dtype=torch.bool)
        done[-1] = True
        reward = torch.tensor(rewards)[:, None]
        advantage, returns = generalized_advantage_estimate(gamma, lam, value, following, reward, done, done)
        assert credit.advantages[k][mask] == pytest.approx(advantage[:, 0].numpy(), abs=1e-5)
        assert credit.returns[k][mask] == pytest.approx(returns[:, 0].numpy(), abs=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_group_of_one_is_a_number(name: str) -> None:
    of = episodes([1.0], parts={"a": np.array([1.0])}, values=[np.zeros(3)])
    credit = make_advantage(name)(of)
    assert np.isfinite(credit.advantages[0]).all()
    assert credit.used.tolist() == [name in ("reinforce_pp", "gae", "vapo")]


def test_whitening_is_over_the_trained_tokens_of_the_batch() -> None:
    of = episodes(
        [1.0, 0.0, 0.5], [0, 1, 2], masks=[GAP, [0, 1, 1], [1, 0, 0]], values=[np.zeros(7), np.zeros(3), np.zeros(3)]
    )
    for name in ("gae", "reinforce_pp"):
        credit = make_advantage(name)(of)
        tokens = np.concatenate([row[mask] for row, mask in zip(credit.advantages, of.trained, strict=True)])
        assert (tokens.mean(), tokens.std(ddof=1)) == pytest.approx((0, 1), abs=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="no advantage 'grp'; did you mean 'grpo'"):
        make_advantage("grp")
    with pytest.raises(UsageError, match="'gae' has no option 'lamda'; did you mean 'lam'"):
        make_advantage("gae", lamda=0.9)
    with pytest.raises(UsageError, match="'grpo' has no option 'function'"):
        make_advantage("grpo", function=1.0)
    with pytest.raises(UsageError, match="need a critic"):
        make_advantage("gae")(episodes([1.0]))
    assert [name for name in ESTIMATORS if needs_critic(name)] == ["gae", "vapo"]


OWN = """
def best_only(episodes, factor=1.0):
    return [factor * (r == episodes.rewards.max()) for r in episodes.rewards]

def too_few(episodes):
    return [0.0]

def broken(episodes):
    return [1 / 0]

def not_finite(episodes):
    return [float("nan")] * len(episodes)

def per_token(episodes):
    return [range(len(mask)) for mask in episodes.trained]

def wrong_length(episodes):
    return [[1.0, 2.0] for mask in episodes.trained]
"""


def test_a_users_function(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    of = episodes([1.0, 0.0])
    credit = make_advantage(f"{tmp_path}/own.py:best_only", factor=3.0)(of)
    assert [row.tolist() for row in credit.advantages] == [[0, 3, 3], [0, 0, 0]]
    assert credit.used.tolist() == [True, False]
    tokens = make_advantage(f"{tmp_path}/own.py:per_token")(of)
    assert tokens.advantages[0].tolist() == [0, 1, 2]
    for name, message in [
        ("too_few", "gave 1 rows for 2 episodes"),
        ("broken", "failed with ZeroDivisionError"),
        ("not_finite", "row 0 is not finite"),
        ("wrong_length", r"row 0 has shape \(2,\)"),
    ]:
        with pytest.raises(UsageError, match=message):
            make_advantage(f"{tmp_path}/own.py:{name}")(of)
    with pytest.raises(UsageError, match="no function 'nothing' there"):
        make_advantage(f"{tmp_path}/own.py:nothing")
