"""Intervals against published values and another library."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binomtest

from agents.stats import estimate, wilson


@pytest.mark.parametrize(("successes", "num"), [(0, 10), (10, 10), (1, 500), (250, 500), (486, 500)])
def test_wilson_equals_scipy(successes: int, num: int) -> None:
    expected = binomtest(successes, num).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(successes, num) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_several_samples_are_clustered_by_problem() -> None:
    # Two problems, always and never solved: 100 samples tell no more than 2.
    wide = estimate([[1.0] * 50, [0.0] * 50])
    assert (wide.mean, wide.num) == (0.5, 100)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_equal_means_are_no_certainty() -> None:
    everything = estimate([[1.0] * 8] * 3)
    assert (everything.mean, everything.high) == (1.0, 1.0)
    assert everything.low == pytest.approx(wilson(3, 3)[0])


def test_nothing_is_nan_not_zero() -> None:
    nothing = estimate([])
    assert math.isnan(nothing.mean)
    assert nothing.num == 0
