"""Line charts as inline SVG. They know series of numbers, not what the numbers mean.

A missing value interrupts a line and is never drawn as 0; a value between two missing ones is a dot. Series differ in
colour *and* marker shape and are labelled where they end, so colour is never the only cue. Pointing at a marker or at
a step shows the numbers (SVG titles; no script). Colours and line widths are classes of the page's style sheet. What is
left out: zooming, and any smoothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import fmean

from agents.report.axes import Axis, Scale, make_axis, show_value, step_axis
from agents.report.markup import Markup, join, tag
from agents.report.stages import Point

__all__ = ["LineChart", "Series", "draw_lines", "figure", "frame", "line_chart", "spread"]

MAX_BANDS = 200  # places to point at; of more steps than that every other, third, ... one answers
LABEL_GAP = 13.5
LABEL_LENGTH = 18  # longer names are cut short; pointing at the line shows them in full
MARGIN = 80.0  # right of the lines, for their labels; the same for charts side by side
NUM_COLOURS = 6


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line.

    Attributes:
        label: its name.
        points: by step; ``None`` is a gap.
        slot: which colour and marker; ``None`` for the only line of a chart.
        strong: a thick line with markers, rather than a thin one.
    """

    label: str
    points: tuple[Point, ...]
    slot: int | None = None
    strong: bool = False

    @property
    def colour(self) -> str:
        """The class that gives it its colour."""
        return "solo" if self.slot is None else f"c{self.slot % NUM_COLOURS}"

    @property
    def drawn(self) -> list[tuple[int, float]]:
        """The points that have a value."""
        return [(step, value) for step, value in self.points if value is not None]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A chart; ``bound`` is drawn as a dashed line, ``size`` is in drawing units."""

    title: str
    caption: str
    series: tuple[Series, ...]
    scale: Scale = "linear"
    size: tuple[int, int] = (440, 250)
    bound: float | None = None


def line_chart(chart: LineChart) -> Markup:
    """The chart as a figure; without a single value, a figure that says so."""
    series = [one for one in chart.series if one.drawn]
    if not series:
        return figure(chart.title, chart.caption, tag("p", "Nothing was recorded.", class_="note"))
    return figure(chart.title, chart.caption, _svg(chart, series, draw_lines(chart)))


def draw_lines(chart: LineChart) -> Markup:
    """What is drawn of a chart that has values, in the coordinates of its size."""
    series = [one for one in chart.series if one.drawn]
    width, height = chart.size
    labels = _end_labels(series, chart.scale)
    margin = max(MARGIN, 26 + 6.4 * max(len(text) for _, text in labels))
    steps = sorted({step for one in series for step, _ in one.points})
    values = [value for one in series for _, value in one.drawn]
    x = step_axis(steps, start=44, end=width - margin)
    y = make_axis(chart.scale, values, start=height - 40, end=16, bound=chart.bound)
    parts = [
        frame(x, y, x_title="training step"),
        *([] if chart.bound is None else [_bound(chart.bound, x, y)]),
        *(_bands(steps, series, x, y, chart.scale)),
        *(_line(one, x, y, chart.scale) for one in series),
        _place_labels(labels, x, y),
    ]
    return join(parts)


def figure(title: str, caption: str, *content: str) -> Markup:
    """A titled figure."""
    heading = tag("figcaption", tag("strong", title), *([tag("span", caption)] if caption else []))
    return tag("figure", heading, *content)


def frame(x: Axis, y: Axis, *, x_title: str = "") -> Markup:
    """Grid lines, tick labels and the title of the horizontal axis."""
    parts: list[Markup] = []
    for value, text in y.ticks:
        parts.append(tag("line", class_="rule", x1=x.start, x2=x.end, y1=y(value), y2=y(value)))
        parts.append(tag("text", text, class_="tick", x=x.start - 7, y=y(value) + 4, text_anchor="end"))
    parts += [tag("text", text, class_="tick", x=x(k), y=y.start + 17, text_anchor="middle") for k, text in x.ticks]
    middle = (x.start + x.end) / 2
    if x_title:
        parts.append(tag("text", x_title, class_="tick", x=middle, y=y.start + 34, text_anchor="middle"))
    return join(parts)


def _svg(chart: LineChart, series: Sequence[Series], drawing: Markup) -> Markup:
    ends = [(one.label, one.drawn[0][1], one.drawn[-1][1]) for one in series]
    spoken = "; ".join(f"{a}: {show_value(b, chart.scale)} to {show_value(c, chart.scale)}" for a, b, c in ends)
    box = f"0 0 {chart.size[0]} {chart.size[1]}"
    return tag("svg", drawing, viewBox=box, role="img", aria_label=f"{chart.title}. {spoken}.")


def _bound(bound: float, x: Axis, y: Axis) -> Markup:
    line = tag("line", class_="bound", x1=x.start, x2=x.end, y1=y(bound), y2=y(bound))
    return join([line, tag("text", "bound", class_="tick", x=x.start + 4, y=y(bound) - 5)])


def _bands(steps: Sequence[int], series: Sequence[Series], x: Axis, y: Axis, scale: Scale) -> list[Markup]:
    """Invisible columns, one for each step, that answer to the pointer."""
    chosen = steps[:: math.ceil(len(steps) / MAX_BANDS)]
    edges = [x.start, *((x(a) + x(b)) / 2 for a, b in pairwise(chosen)), x.end]
    by_label = [(one.label, dict(one.points)) for one in series]
    bands: list[Markup] = []
    for step, (left, right) in zip(chosen, pairwise(edges), strict=True):
        found = [(label, points.get(step)) for label, points in by_label]
        lines = [f"{label}: {show_value(value, scale)}" for label, value in found if value is not None]
        text = tag("title", "\n".join([f"step {step}", *lines]))
        bands.append(tag("rect", text, class_="band", x=left, y=y.end, width=right - left, height=y.start - y.end))
    return bands


def _line(series: Series, x: Axis, y: Axis, scale: Scale) -> Markup:
    strength = "strong" if series.strong else "thin"
    parts: list[Markup] = []
    for missing, run in groupby(series.points, key=lambda point: point[1] is None):
        places = [] if missing else [(x(step), y(value)) for step, value in run if value is not None]
        if len(places) > 1:
            parts.append(tag("polyline", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in places)))
        elif places and not series.strong:
            parts.append(tag("circle", class_="dot", cx=places[0][0], cy=places[0][1], r=2))
    if series.strong:
        parts += [_marker(series, x(step), y(v), f"step {step}, {show_value(v, scale)}") for step, v in series.drawn]
    return tag("g", *parts, class_=f"line {strength} {series.colour}")


def _marker(series: Series, x: float, y: float, text: str) -> Markup:
    title = tag("title", f"{series.label}: {text}")
    return tag("path", title, d=_shape(series.slot or 0, x, y), class_="mark")


def _shape(slot: int, x: float, y: float) -> str:
    """Outline of the marker of a slot: circle, square, triangle, diamond, triangle pointing down, cross."""
    if slot % NUM_COLOURS == 0:
        return f"M{x - 3.4:.1f} {y:.1f}a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z"
    outlines = (
        "m-3 -3h6v6h-6z",
        "m0 -4.2l4 7h-8z",
        "m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z",
        "m0 4.2l4 -7h-8z",
        "m-1.4 -4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    )
    return f"M{x:.1f} {y:.1f}{outlines[slot % NUM_COLOURS - 1]}"


def _end_labels(series: Sequence[Series], scale: Scale) -> list[tuple[Series, str]]:
    """Which line is labelled with what: of each slot the strong line with its name, a lone line with its last value."""
    chosen = {one.slot: one for one in sorted(series, key=lambda one: one.strong)}
    names = {slot: one.label for slot, one in chosen.items()}
    short = {
        slot: name if len(name) <= LABEL_LENGTH else f"{name[: LABEL_LENGTH - 1]}…" for slot, name in names.items()
    }
    return [(one, show_value(one.drawn[-1][1], scale) if slot is None else short[slot]) for slot, one in chosen.items()]


def _place_labels(labels: Sequence[tuple[Series, str]], x: Axis, y: Axis) -> Markup:
    """Labels next to the line ends, with the line's marker, moved apart where they would overlap."""
    ordered = sorted(labels, key=lambda label: y(label[0].drawn[-1][1]))
    places = spread([y(one.drawn[-1][1]) for one, _ in ordered], low=y.end - 6, high=y.start)
    parts: list[Markup] = []
    for (one, text), place in zip(ordered, places, strict=True):
        if one.slot is not None:
            parts.append(tag("path", d=_shape(one.slot, x.end + 13, place), class_=f"mark {one.colour}"))
        left = x.end + (8 if one.slot is None else 21)
        parts.append(tag("text", text, class_=f"label {one.colour}", x=left, y=place + 4))
    return join(parts)


def spread(wanted: Sequence[float], *, low: float, high: float) -> list[float]:
    """Places a label's height apart, as near to the wanted ones (which ascend) as they can be.

    Least squares under an order: subtract what each place must be behind the first, pool neighbours that are out of
    order into their mean, add it again.
    """
    blocks: list[list[float]] = []
    for k, place in enumerate(wanted):
        blocks.append([place - k * LABEL_GAP])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    top = high - (len(wanted) - 1) * LABEL_GAP
    starts = [min(max(fmean(block), low), top) for block in blocks for _ in block]
    return [start + k * LABEL_GAP for k, start in enumerate(starts)]
