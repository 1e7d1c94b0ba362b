"""Numbers at k: against enumeration of every subset, and what may not be asked."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.stats import Sample, Statistics, best_at_k, majority_at_k, pass_at_k, statistics, verl_metrics, worst_at_k
from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from tests.agents.episodes import make_episode


@st.composite
def samples_and_k(draw: st.DrawFn) -> tuple[list[bool], int]:
    right = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    return right, draw(st.integers(1, len(right)))


@given(samples_and_k())
def test_pass_best_and_worst_are_means_over_subsets(drawn: tuple[list[bool], int]) -> None:
    right, k = drawn
    subsets = list(combinations(right, k))
    passed = sum(map(any, subsets)) / len(subsets)
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(passed)
    assert best_at_k([float(x) for x in right], k) == pytest.approx(passed)
    assert worst_at_k([float(x) for x in right], k) == pytest.approx(sum(map(all, subsets)) / len(subsets))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8), st.data())
def test_best_and_worst_of_any_values(values: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    subsets = list(combinations(values, k))
    assert best_at_k(values, k) == pytest.approx(sum(map(max, subsets)) / len(subsets))
    assert worst_at_k(values, k) == pytest.approx(sum(map(min, subsets)) / len(subsets))


@pytest.mark.parametrize("num", range(1, 129))
def test_ones_alone_are_one(num: int) -> None:
    """Almost 1 would pass for a problem that is not always solved."""
    for k in range(1, num + 1):
        assert best_at_k([1.0] * num, k) == worst_at_k([1.0] * num, k) == 1.0
        assert best_at_k([0.0, *[1.0] * num], k) == pass_at_k(num + 1, num, k)


def vote(answers: tuple[str | None, ...], gold: str) -> float:
    """One vote, counted by hand: ties are split, nobody voting is wrong."""
    given_answers = [answer for answer in answers if answer is not None]
    if not given_answers:
        return 0.0
    most = max(map(given_answers.count, given_answers))
    first = {answer for answer in given_answers if given_answers.count(answer) == most}
    return (gold in first) / len(first)


@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9), st.data())
def test_majority_is_the_mean_over_votes(answers: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    votes = [vote(subset, "1") for subset in combinations(answers, k)]
    found = majority_at_k(answers, [answer == "1" for answer in answers], k)
    # 2,000 random subsets: five standard errors, and exact at both ends.
    assert found == pytest.approx(sum(votes) / len(votes), abs=1e-12 if k in (1, len(answers)) else 0.056)


def test_right_answers_vote_together_however_they_are_written() -> None:
    assert majority_at_k(["1/2", "0.5", "3", "3"], [True, True, False, False], 4) == 0.5
    assert majority_at_k(["1/2", "0.5", "3"], [True, True, False], 3) == 1.0


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_the_samples_is_refused(k: int) -> None:
    for ask in (
        lambda: pass_at_k(4, 2, k),
        lambda: best_at_k([0.0] * 4, k),
        lambda: worst_at_k([0.0] * 4, k),
        lambda: majority_at_k(["1"] * 4, [True] * 4, k),
    ):
        with pytest.raises(UsageError, match=rf"k={k} needs {k} scored samples of a problem, there are 4"):
            ask()


def sample(
    problem: str,
    ticket: int,
    *,
    right: bool = False,
    outcome: Outcome = Outcome.ANSWERED,
    statuses: tuple[ToolStatus, ...] = (),
    answer: str | None = "7",
) -> Sample:
    failed = outcome.failed
    return Sample(
        ticket=ticket, problem=problem, gold="1", source="aime_2025", family="", outcome=outcome,
        correct=right and not failed, answer=None if failed else "1" if right else answer,
        reward=None if failed else 2.0 * right - 1,
        statuses=statuses, errors=("NameError",) * statuses.count(ToolStatus.ERROR), num_turns=2 + 2 * len(statuses),
        num_action_tokens=100, num_sampled=100, counted=False, seconds=2.0, tool_seconds=0.5 * len(statuses),
    )  # fmt: skip


def four_problems() -> list[Sample]:
    """Four samples each: always right, half right, never right, and one that infrastructure ended throughout."""
    ok, error, bad = (ToolStatus.OK,), (ToolStatus.ERROR, ToolStatus.OK), (ToolStatus.MALFORMED,)
    return [
        *(sample("a", k, right=True, statuses=ok) for k in range(4)),
        *(sample("b", 4 + k, right=k < 2, statuses=error) for k in range(4)),
        *(sample("c", 8 + k, outcome=Outcome.MAX_TURNS, answer=None, statuses=bad) for k in range(3)),
        sample("c", 11, outcome=Outcome.ENGINE_OUTAGE),
        *(sample("d", 12 + k, outcome=Outcome.SANDBOX_OUTAGE) for k in range(4)),
    ]


@pytest.fixture
def found() -> Statistics:
    return statistics(four_problems())


def test_failures_are_reported_and_never_scored(found: Statistics) -> None:
    assert found.failures == {"engine_outage": 1, "sandbox_outage": 4}
    assert (found.num_failed, found.unscored_problems) == (5, ("d",))
    assert (found.num_problems, found.num_scored, found.num_samples) == (3, 11, 4)
    assert found.accuracy.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.outcomes == {"answered": 8 / 11, "max_turns": 3 / 11}


def test_numbers_at_k_leave_out_short_problems_and_count_them(found: Statistics) -> None:
    at = {row.k: row for row in found.at_k}
    assert list(at) == [1, 2, 4]
    assert (at[2].num_problems, at[2].num_left_out) == (3, 0)
    assert at[2].best.mean == pytest.approx((1 + (1 - 1 / 6) + 0) / 3)
    assert (at[4].num_problems, at[4].num_left_out) == (2, 1)
    assert (at[4].best.mean, at[4].worst.mean, at[4].majority.mean) == (1.0, 0.5, 0.75)


def test_rates_and_costs(found: Statistics) -> None:
    assert found.answered.mean == pytest.approx(2 / 3)
    assert found.truncated.mean == pytest.approx(1 / 3)
    assert found.tool_use.mean == pytest.approx(2 / 3)
    assert found.num_calls == 15
    assert found.calls == {"ok": 8 / 15, "error": 4 / 15, "malformed": 3 / 15}
    assert found.tokens_per_solved == 1100 / 6
    assert found.tool_seconds_per_solved == (4 * 0.5 + 4 * 1.0 + 3 * 0.5) / 6
    assert (found.turns.low, found.turns.high) == (4, 6)
    assert found.tool_error.mean == pytest.approx((0 + 1 / 2 + 1) / 3)  # of the calls of a, b and c
    assert found.errors == {"NameError": 1.0}
    assert (found.seconds.mean, found.seconds_per_solved) == (2.0, 11 * 2.0 / 6)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Traceback (most recent call last):\n  ...\nZeroDivisionError: division by zero\n", "ZeroDivisionError"),
        ("numpy.linalg.LinAlgError: Singular matrix", "LinAlgError"),
        ("41\nKeyboardInterrupt", "KeyboardInterrupt"),
        ("Error 17", "other"),
        ("Done", "other"),
        ("", "other"),
    ],
)
def test_the_class_of_an_error_is_what_the_interpreter_said_last(said: str, name: str) -> None:
    call = CallRecord(turn=0, name="code_interpreter", code="1 / 0", status=ToolStatus.ERROR, text=said)
    assert Sample.of(make_episode("p", right=False, calls=[call])).errors == (name,)


def test_verl_names(found: Statistics) -> None:
    metrics = verl_metrics(found)
    assert metrics["val-core/aime_2025/acc/mean@4"] == pytest.approx(0.5)
    assert metrics["val-core/aime_2025/acc/best@4/mean"] == 1.0
    assert metrics["val-core/aime_2025/acc/maj@4/mean"] == 0.75
    assert metrics["val-aux/aime_2025/acc/worst@4/mean"] == 0.5
    assert metrics["val-aux/aime_2025/acc/best@2/mean"] == pytest.approx(found.at_k[1].best.mean)
    assert metrics["val-aux/aime_2025/acc/std@4"] == pytest.approx(0.5 / 3)
    assert metrics["val-aux/aime_2025/reward/mean@4"] == pytest.approx(0.0)
    assert metrics["val-aux/num_turns/mean"] == pytest.approx((4 * 4 + 4 * 6 + 3 * 4) / 11)
    assert not any(name.endswith("@1/mean") for name in metrics)


def test_k_beyond_every_problem_is_refused() -> None:
    with pytest.raises(UsageError, match=r"k=8: no problem has that many scored samples, the most is 4; lower k"):
        statistics(four_problems(), ks=[2, 8])
    with pytest.raises(UsageError, match="no episodes"):
        statistics([])


def test_a_run_without_any_scored_sample_claims_nothing() -> None:
    nothing = statistics([sample("a", 0, outcome=Outcome.CANCELLED)])
    assert math.isnan(nothing.accuracy.mean) and nothing.at_k == ()
    assert math.isinf(nothing.tokens_per_solved)
