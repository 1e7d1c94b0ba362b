"""Intervals of a mean over problems, against other libraries and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.stats import Interval, estimate, wilson
from agents.stats.intervals import (
    bootstrap_interval,
    clustered_error,
    normal_interval,
    repeat_error,
    score_interval,
    t_interval,
    t_quantile,
)

NUM_PROBLEMS, NUM_RUNS = 30, 2000


@pytest.mark.parametrize(("successes", "num"), [(0, 10), (10, 10), (1, 500), (250, 500), (486, 500)])
def test_wilson_equals_scipy(successes: int, num: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    expected = stats.binomtest(successes, num).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(successes, num) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("num", [1, 30, 100, 400, 500, 1319])
def test_an_end_at_0_or_1_is_exact(num: int) -> None:
    assert wilson(0, num).low == 0.0 and wilson(num, num).high == 1.0


@pytest.mark.parametrize("freedom", [*range(1, 41), 100, 499, 1318, 9999])
def test_t_quantile_equals_scipy(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_t_interval_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    means = np.random.default_rng(0).beta(2, 2, 30).tolist()
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert t_interval(means) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_clustered_error_equals_statsmodels() -> None:
    api = pytest.importorskip("statsmodels.api", reason="statsmodels is the oracle")
    random = np.random.default_rng(1)
    values = random.binomial(1, random.beta(0.5, 0.5, size=(30, 1)), size=(30, 32)).astype(float)
    problems = np.repeat(np.arange(30), 32)
    model = api.OLS(values.ravel(), np.ones((960, 1)))
    # Its factor for few clusters is G / (G - 1) times (N - 1) / (N - 1) with one regressor.
    expected = model.fit(cov_type="cluster", cov_kwds={"groups": problems, "use_correction": True}).bse[0]
    assert clustered_error(values.mean(axis=1).tolist()) == pytest.approx(expected, rel=1e-9)


def test_the_bootstrap_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    means = np.random.default_rng(2).beta(2, 2, 200)
    expected = stats.bootstrap(
        (means,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(means.tolist())
    assert found == pytest.approx((expected.low, expected.high), abs=0.15 * (expected.high - expected.low))
    assert found == bootstrap_interval(means.tolist())


def test_the_repeat_error_is_the_spread_of_repeated_runs() -> None:
    random = np.random.default_rng(4)
    chances = random.beta(0.5, 0.5, size=(30, 1))
    runs = random.binomial(1, chances, size=(2000, 30, 8)).astype(float)
    found = math.sqrt(np.mean([repeat_error(run.tolist()) ** 2 for run in runs[:300]]))
    assert found == pytest.approx(runs.mean(axis=(1, 2)).std(), rel=0.06)
    # The same problems again differ far less than other problems would.
    assert found < 0.5 * clustered_error(runs[0].mean(axis=1).tolist())
    assert math.isnan(repeat_error([[1.0], [1.0, 0.0]])) and math.isnan(repeat_error([]))


def draw_means(alpha: float, beta: float, k: int, seed: int) -> np.ndarray:
    """Averages of ``k`` samples of 30 problems, in 2,000 simulated runs."""
    random = np.random.default_rng(seed)
    chances = random.beta(alpha, beta, size=(NUM_RUNS, NUM_PROBLEMS))
    return random.binomial(k, chances) / k


def coverage(interval: Callable[[list[float]], Interval], runs: np.ndarray, truth: float) -> tuple[float, float]:
    """Share of the intervals that hold the truth, and their mean width within [0, 1]."""
    found = np.array([interval(row) for row in runs.tolist()])
    widths = np.minimum(found[:, 1], 1) - np.maximum(found[:, 0], 0)
    return float(np.mean((found[:, 0] <= truth) & (truth <= found[:, 1]))), float(widths.mean())


# The two of the project's bar, and ones near 0 and 1, where most intervals fail.
BETAS = [(0.5, 0.5), (2, 2), (0.5, 10), (0.2, 20), (10, 0.5), (20, 1)]


@pytest.mark.parametrize(("betas", "k"), list(product(BETAS, (1, 4, 32))))
def test_the_interval_covers(betas: tuple[float, float], k: int) -> None:
    """The truth is the mean chance over the population of problems, alpha / (alpha + beta)."""
    alpha, beta = betas
    runs, truth = draw_means(alpha, beta, k, seed=7), alpha / (alpha + beta)
    (share, width), (normal_share, normal_width) = (
        coverage(interval, runs, truth) for interval in (score_interval, normal_interval)
    )
    print(
        f"Beta({alpha:g}, {beta:g}) k={k:2}: covers {100 * share:.1f}%, width {width:.3f}; "
        f"normal {100 * normal_share:.1f}%, {normal_width:.3f}"
    )
    assert share >= 0.93
    assert width < 1.2 * normal_width or normal_share < 0.93


def test_the_normal_interval_fails_where_ours_is_needed() -> None:
    """If this passes with the normal interval too, the simulation cannot see anything."""
    share, _ = coverage(normal_interval, draw_means(0.2, 20, 32, seed=7), 0.2 / 20.2)
    assert share < 0.9


@pytest.mark.parametrize(("share", "alpha", "beta"), [(0.05, 50, 0.5), (0.1, 30, 0.3), (0.05, 20, 1)])
def test_a_rare_kind_is_covered_where_one_was_drawn(share: float, alpha: float, beta: float) -> None:
    """A few problems that are never solved among easy ones. Without one in the sample nothing tells of them."""
    random = np.random.default_rng(7)
    never = random.random((NUM_RUNS, NUM_PROBLEMS)) < share
    chances = np.where(never, 0, random.beta(alpha, beta, size=never.shape))
    runs, truth = random.binomial(32, chances) / 32, (1 - share) * alpha / (alpha + beta)
    drawn = never.any(axis=1)
    whole, seen, unseen = (coverage(score_interval, some, truth) for some in (runs, runs[drawn], runs[~drawn]))
    print(
        f"{100 * share:.0f}% never, Beta({alpha:g}, {beta:g}) k=32: covers {100 * whole[0]:.1f}%, "
        f"{100 * seen[0]:.1f}% where one was drawn ({100 * drawn.mean():.0f}%), {100 * unseen[0]:.1f}% elsewhere"
    )
    assert seen[0] >= 0.93
    assert unseen[0] < 0.3, "the page on statistics says that it cannot see them"
    once = random.binomial(1, chances)
    assert coverage(score_interval, once, truth)[0] >= 0.93


def test_rounding_makes_no_problem_uncertain() -> None:
    almost = [1.0, math.nextafter(1, 0)]
    assert score_interval(almost) == pytest.approx(wilson(2, 2))
    assert score_interval([0.0, 5e-17]) == pytest.approx(wilson(0, 2))


def test_several_samples_are_clustered_by_problem() -> None:
    # Two problems, always and never solved: 100 samples tell no more than 2.
    wide = estimate([[1.0] * 50, [0.0] * 50])
    assert (wide.mean, wide.num) == (0.5, 100)
    assert (wide.low, wide.high) == wilson(1, 2)


def test_equal_means_are_no_certainty() -> None:
    everything = estimate([[1.0] * 8] * 3)
    assert (everything.mean, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(wilson(3, 3)[0])
    halves = estimate([[1.0, 0.0]] * 3)
    assert halves.low < 0.3 and halves.high > 0.7


def test_nothing_is_nan_not_zero() -> None:
    nothing = estimate([])
    assert math.isnan(nothing.mean)
    assert nothing.num == 0
    assert all(math.isnan(end) for end in (*t_interval([0.5]), *bootstrap_interval([0.5]), clustered_error([0.5])))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40))
def test_an_interval_holds_its_mean_and_mirrors(counts: list[int]) -> None:
    means = [count / 8 for count in counts]
    low, high = score_interval(means)
    assert 0 <= low <= math.fsum(means) / len(means) + 1e-12
    assert math.fsum(means) / len(means) - 1e-12 <= high <= 1
    assert score_interval([1 - value for value in means]) == pytest.approx((1 - high, 1 - low), abs=1e-9)
