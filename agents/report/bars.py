"""Shares with their intervals: bars with whiskers, and the small strips inside of tables.

Both show 0 to 100 % in full. An estimate of nothing (no episodes) is an empty place that says so, not a bar of height
0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.report.axes import Axis, make_axis
from agents.report.charts import figure, frame
from agents.report.markup import Markup, join, tag
from agents.stats import Estimate

__all__ = ["BarGroup", "bar_chart", "show_share", "strip"]

WIDTH, HEIGHT = 440, 260
BAR = 34.0


@dataclass(frozen=True, kw_only=True)
class BarGroup:
    """Bars that stand together: a label below, and an estimate for each kind."""

    label: str
    bars: Mapping[str, Estimate]


def bar_chart(title: str, caption: str, groups: Sequence[BarGroup]) -> Markup:
    """Groups of bars; the kinds have a colour each, in their order."""
    x = Axis(low=0, high=max(1, len(groups)), start=44, end=WIDTH - 6, ticks=())
    y = make_axis("percent", [], start=HEIGHT - 28, end=22)
    parts = [frame(x, y), *(_group(group, x(k + 0.5), y) for k, group in enumerate(groups))]
    spoken = [f"{g.label}, {kind}: {show_share(e)}" for g in groups for kind, e in g.bars.items()]
    label = f"{title}. {'; '.join(spoken)}."
    drawing = tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    return figure(title, caption, drawing)


def strip(estimate: Estimate) -> Markup:
    """A line from 0 to 100 % with the interval and the mean on it."""
    low, high, mean = (100 * value for value in (estimate.low, estimate.high, estimate.mean))
    parts = [
        tag("line", class_="rail", x1=0, x2=100, y1=4, y2=4),
        tag("line", class_="range", x1=low, x2=high, y1=4, y2=4),
        tag("line", class_="mean", x1=mean, x2=mean, y1=0.5, y2=7.5),
    ]
    return tag("svg", *parts, viewBox="-1 0 102 8", preserveAspectRatio="none", class_="strip", aria_hidden="true")


def show_share(estimate: Estimate) -> str:
    """A share in percent with its interval."""
    if not estimate.num:
        return "no episodes"
    return f"{100 * estimate.mean:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _group(group: BarGroup, middle: float, y: Axis) -> Markup:
    parts = [tag("text", group.label, class_="name", x=middle, y=y.start + 20, text_anchor="middle")]
    left = middle - (len(group.bars) * (BAR + 10) - 10) / 2
    for slot, (kind, estimate) in enumerate(group.bars.items()):
        parts.append(_bar(f"{group.label}, {kind}", slot, estimate, left + slot * (BAR + 10), y))
    return join(parts)


def _bar(label: str, slot: int, estimate: Estimate, left: float, y: Axis) -> Markup:
    middle = left + BAR / 2
    if not estimate.num:
        return tag("text", "none", class_="tick", x=middle, y=y.start - 6, text_anchor="middle")
    top, low, high = y(estimate.mean), y(estimate.low), y(estimate.high)
    value = f"{100 * estimate.mean:.0f} %"
    parts = [
        tag("title", f"{label}: {show_share(estimate)}, {estimate.num} episodes"),
        tag("rect", class_="bar", x=left, y=top, width=BAR, height=y.start - top),
        tag("path", class_="whisker", d=f"M{middle:.1f} {low:.1f}V{high:.1f}m-4 0h8M{middle - 4:.1f} {low:.1f}h8"),
        tag("text", value, class_="value", x=middle, y=high - 6, text_anchor="middle"),
    ]
    return tag("g", *parts, class_=f"k{slot}")
