"""95 % intervals of a mean over problems.

The unit is the problem: its samples are averaged first, because samples of one problem are not independent. What is
estimated is the mean of those averages over the population that the problems were drawn from.

:func:`score_interval` is the one that is reported. It is Wilson's interval (Wilson 1927) with the number of problems
divided by their dispersion, i.e. the effective sample size of survey statistics (Korn and Graubard 1998), and with
Student's quantile, since the dispersion is estimated. The dispersion ``s^2 / (m (1 - m))`` is 1 when every problem is
always or never solved, smaller when their averages lie closer together, and cannot be larger; one problem's worth of 1
is mixed into it, without which few problems near 0 or 1 look more alike than they are. The t, normal and bootstrap
intervals stand beside it as cross-checks; all three collapse to a point when all averages are equal.

Left out: what no sample shows. Where problems are of two kinds and none of the rare one was drawn, the interval is that
of the other kind (``docs/statistics.md`` has figures).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimate",
    "Interval",
    "bootstrap_interval",
    "clustered_error",
    "estimate",
    "estimate_means",
    "normal_interval",
    "repeat_error",
    "score_interval",
    "t_interval",
    "t_quantile",
    "wilson",
]

Z95 = 1.959963984540054
NUM_DRAWS = 2000
_ROUNDING = 1e-12
_BLOCK = 1_000_000  # numbers drawn at a time by the bootstrap


class Interval(NamedTuple):
    """Both ends of an interval; NaN where it does not exist."""

    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its 95 % interval. ``num`` is the number of samples; NaN everywhere when there are none."""

    mean: float
    low: float
    high: float
    num: int

    def __str__(self) -> str:
        return f"{100 * self.mean:5.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(values_by_problem: Sequence[Sequence[float]]) -> Estimate:
    """Mean over problems of the mean of each problem's values in [0, 1]; problems without any are left out."""
    groups = [values for values in values_by_problem if values]
    means = [math.fsum(values) / len(values) for values in groups]
    return estimate_means(means, num=sum(map(len, groups)))


def estimate_means(means: Sequence[float], *, num: int) -> Estimate:
    """The mean of the problems' averages with :func:`score_interval`; ``num`` samples are behind them."""
    if not means:
        return Estimate(mean=math.nan, low=math.nan, high=math.nan, num=0)
    return Estimate(mean=math.fsum(means) / len(means), **score_interval(means)._asdict(), num=num)


def wilson(successes: float, num: float, *, quantile: float = Z95) -> Interval:
    """Wilson's interval of ``successes`` out of ``num > 0``, neither of which has to be whole."""
    mean = successes / num
    centre = mean + quantile**2 / (2 * num)
    spread = quantile * math.sqrt(max(mean * (1 - mean), 0) / num + quantile**2 / (4 * num**2))
    scale = 1 + quantile**2 / num
    # At 0 and 1 the end is exact, and not a rounding beside it.
    low = (centre - spread) / scale if mean > 0 else 0.0
    return Interval(max(0.0, low), min(1.0, (centre + spread) / scale) if mean < 1 else 1.0)


def score_interval(means: Sequence[float]) -> Interval:
    """Wilson's interval with the effective number of problems.

    Args:
        means: at least one problem's average each in [0, 1].
    """
    num, mean = len(means), math.fsum(means) / len(means)
    if num == 1 or all(min(abs(value), abs(1 - value)) < _ROUNDING for value in means):
        return wilson(math.fsum(means), num)  # the dispersion is 1, nothing is estimated
    dispersion = min(1.0, _variance(means) / (mean * (1 - mean)))
    effective = num / (((num - 1) * dispersion + 1) / num)
    return wilson(mean * effective, effective, quantile=t_quantile(num - 1))


def clustered_error(means: Sequence[float]) -> float:
    """Standard error of the mean over problems; NaN for fewer than two."""
    return math.sqrt(_variance(means) / len(means)) if len(means) > 1 else math.nan


def repeat_error(values_by_problem: Sequence[Sequence[float]]) -> float:
    """Standard error of the mean under sampling these very problems again; NaN where a problem has one sample."""
    if not values_by_problem or any(len(values) < 2 for values in values_by_problem):
        return math.nan
    return math.sqrt(math.fsum(_variance(v) / len(v) for v in values_by_problem)) / len(values_by_problem)


def t_interval(means: Sequence[float]) -> Interval:
    """Mean and clustered error with Student's quantile; not cut to [0, 1]."""
    return _symmetric(means, t_quantile(len(means) - 1)) if len(means) > 1 else Interval(math.nan, math.nan)


def normal_interval(means: Sequence[float]) -> Interval:
    """Mean and clustered error with the normal quantile: too narrow for few problems."""
    return _symmetric(means, Z95) if len(means) > 1 else Interval(math.nan, math.nan)


def bootstrap_interval(means: Sequence[float], *, seed: int = 0) -> Interval:
    """Percentiles of the mean under resampling of problems, 2,000 draws; the same for the same seed."""
    if len(means) < 2:
        return Interval(math.nan, math.nan)
    values, random = np.asarray(means, dtype=np.float64), np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(values))
    blocks = [min(rows, NUM_DRAWS - start) for start in range(0, NUM_DRAWS, rows)]
    draws = [values[random.integers(len(values), size=(num, len(values)))].mean(axis=1) for num in blocks]
    low, high = np.quantile(np.concatenate(draws), [0.025, 0.975])
    return Interval(float(low), float(high))


@functools.lru_cache(maxsize=256)
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with ``freedom >= 1`` degrees, by bisection of its closed form."""
    assert freedom >= 1, freedom
    exponents, coefficients = _t_series(freedom)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _t_within(middle, freedom, exponents, coefficients) < 0.95:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _t_series(freedom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Powers of the cosine and their factors: Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    first = freedom % 2
    powers = np.arange(first, freedom - 1, 2, dtype=np.float64)
    ratios = (powers[1:] - 1) / powers[1:]
    return powers, np.cumprod(np.concatenate([np.ones(min(len(powers), 1)), ratios]))


def _t_within(angle: float, freedom: int, powers: NDArray[np.float64], factors: NDArray[np.float64]) -> float:
    """Probability of ``|t| <= sqrt(freedom) tan(angle)``."""
    series = math.sin(angle) * float(np.sum(factors * math.cos(angle) ** powers))
    return 2 / math.pi * (angle + series) if freedom % 2 else series


def _symmetric(means: Sequence[float], quantile: float) -> Interval:
    mean, half = math.fsum(means) / len(means), quantile * clustered_error(means)
    return Interval(mean - half, mean + half)


def _variance(means: Sequence[float]) -> float:
    return float(np.var(np.asarray(means, dtype=np.float64), ddof=1))
