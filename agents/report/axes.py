"""Axes: from values to drawing coordinates, with ticks at round numbers.

An :class:`Axis` is a function from a value to a coordinate and knows its ticks. Three scales: linear over the data,
percent (always 0 to 1, so that charts can be compared), and logarithmic in whole decades. A logarithmic axis has no 0;
values of exactly 0 (log-probabilities that agree to the last bit) get a tick of their own below the lowest decade.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Axis", "Scale", "make_axis", "show_value", "step_axis"]

Scale = Literal["linear", "percent", "log"]
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps ``low`` to ``start`` and ``high`` to ``end``; on a logarithmic axis ``low`` and ``high`` are exponents."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        place = value
        if self.log:
            place = math.log10(value) if value > 0 else self.low
        return self.start + (place - self.low) / (self.high - self.low) * (self.end - self.start)


def make_axis(scale: Scale, values: Sequence[float], *, start: float, end: float, bound: float | None = None) -> Axis:
    """An axis on which all values, and the bound, have a place."""
    shown = [*values, *([] if bound is None else [bound])]
    if scale == "percent":
        ticks = tuple((share / 4, f"{25 * share} %") for share in range(5))
        return Axis(low=0.0, high=1.0, start=start, end=end, ticks=ticks)
    if scale == "log":
        return _log_axis(shown, start=start, end=end)
    low, high = min(shown), max(shown)
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple((k * step, _tick_text(k * step, step)) for k in range(first, last + 1))
    return Axis(low=first * step, high=last * step, start=start, end=end, ticks=ticks)


def step_axis(steps: Sequence[int], *, start: float, end: float) -> Axis:
    """The horizontal axis: it ends where the data end, with ticks at round steps."""
    low, high = min(steps), max(steps)
    if low == high:
        return Axis(low=low - 1, high=high + 1, start=start, end=end, ticks=((low, str(low)),))
    step = max(1, round(_round_step((high - low) / 5)))
    ticks = tuple((k, f"{k:,}".replace(",", "\u202f")) for k in range(-(-low // step) * step, high + 1, step))
    return Axis(low=low, high=high, start=start, end=end, ticks=ticks)


def show_value(value: float, scale: Scale) -> str:
    """A value in the way its axis shows values, with a digit more."""
    if scale == "percent":
        return f"{100 * value:.1f} %"
    if scale == "log" and value > 0:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa} · 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"{value:.3g}".replace("-", "−")


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _tick_text(value: float, step: float) -> str:
    decimals = next((n for n in range(10) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 10)
    return f"{value:.{decimals}f}".replace("-", "−")


def _log_axis(values: Sequence[float], *, start: float, end: float) -> Axis:
    exponents = [math.log10(value) for value in values if value > 0] or [0.0]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    low -= low == high
    decades = range(low, high + 1, math.ceil((high - low) / 6))
    ticks = [(10.0**k, "10" + str(k).translate(_SUPERSCRIPT)) for k in decades]
    if any(value <= 0 for value in values):
        low -= 1
        ticks.insert(0, (0.0, "0"))
    return Axis(low=low, high=high, start=start, end=end, ticks=tuple(ticks), log=True)
