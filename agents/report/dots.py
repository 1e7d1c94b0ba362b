"""Shares of several things below each other: a dot for each repetition, and the mean with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.report.axes import Axis, make_axis
from agents.report.bars import show_share
from agents.report.markup import Markup, join, tag
from agents.stats import Estimate

__all__ = ["DotRow", "dots_size", "draw_dots"]

_WIDTH, _ROW, _FOOT = 560, 30, 34
_LETTER = 6.6  # width of one, about


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """One line of the chart: ``parts`` are the shares that ``estimate`` is of."""

    label: str
    estimate: Estimate
    parts: tuple[float, ...]


def dots_size(rows: Sequence[DotRow]) -> tuple[int, int]:
    """Width and height of the drawing."""
    return _WIDTH, _ROW * len(rows) + _FOOT


def draw_dots(rows: Sequence[DotRow]) -> Markup:
    """The rows, from 0 to 100 %."""
    left = min(_WIDTH / 2, 24 + _LETTER * max(len(row.label) for row in rows))
    x = make_axis("percent", [], start=left, end=_WIDTH - 92)
    bottom = _ROW * len(rows)
    grid = [
        part
        for value, text in x.ticks
        for part in (
            tag("line", class_="rule", x1=x(value), x2=x(value), y1=0, y2=bottom),
            tag("text", text, class_="tick", x=x(value), y=bottom + 18, text_anchor="middle"),
        )
    ]
    return join([*grid, *(_row(row, x, _ROW * (place + 0.5)) for place, row in enumerate(rows))])


def _row(row: DotRow, x: Axis, y: float) -> Markup:
    name = tag("text", row.label, class_="name", x=x.start - 10, y=y + 4, text_anchor="end")
    if not row.parts:
        return join([name, tag("text", "none finished", class_="tick", x=x.start + 6, y=y + 4)])
    mean, low, high = x(row.estimate.mean), x(row.estimate.low), x(row.estimate.high)
    whisker = f"M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"
    return tag(
        "g",
        tag("title", f"{row.label}: {show_share(row.estimate)}"),
        name,
        *(tag("circle", class_="dot", cx=x(part), cy=y, r=3, opacity=0.45) for part in row.parts),
        tag("path", class_="whisker", d=whisker),
        tag("path", class_="mark", d=f"M{mean:.1f} {y:.1f}m0 -5l5 5l-5 5l-5 -5z"),
        tag("text", f"{100 * row.estimate.mean:.1f} %", class_="value", x=x.end + 12, y=y + 4),
        class_="c1",
    )
