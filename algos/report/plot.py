"""The one plot of a sweep: learning curves by combination, or final accuracies where there is no curve.

A strong line is the mean over the finished seeds of a combination, at steps that all of them have; thin ones are the
seeds. Held-out accuracy where it was measured on the way, the training batches' otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from agents.report.charts import LineChart, Series, draw_lines
from agents.report.dots import DotRow, dots_size, draw_dots
from agents.report.stages import Point
from agents.report.standalone import svg_file
from algos.report.pool import Cell, Pooled

__all__ = ["plot"]

_SIZE = (760, 380)


def plot(rows: Sequence[Pooled]) -> str:
    """The SVG file's text."""
    held_out = any(len(cell.run.held_out) > 1 for row in rows for cell in row.cells)
    curves = {row.label: [_points(cell, held_out=held_out) for cell in row.finished] for row in rows}
    if not any(len(points) > 1 for seeds in curves.values() for points in seeds):
        return _dots(rows)
    what = "Held-out accuracy" if held_out else "Accuracy of the training batches"
    chart = LineChart(
        title=f"{what} by training step",
        caption="Strong: mean over seeds. Thin: each seed.",
        series=tuple(_lines(curves)),
        scale="percent",
        size=_SIZE,
    )
    return svg_file(draw_lines(chart), title=chart.title, caption=chart.caption, size=chart.size)


def _points(cell: Cell, *, held_out: bool) -> tuple[Point, ...]:
    return cell.run.held_out if held_out else cell.run.training


def _lines(curves: Mapping[str, Sequence[Sequence[Point]]]) -> list[Series]:
    lines = []
    for slot, (label, seeds) in enumerate(curves.items()):
        lines += [Series(label=f"{label}, a seed", points=tuple(points), slot=slot) for points in seeds]
        lines.append(Series(label=label, points=_mean(seeds), slot=slot, strong=True))
    return lines


def _mean(seeds: Sequence[Sequence[Point]]) -> tuple[Point, ...]:
    known = [{step: value for step, value in points if value is not None} for points in seeds]
    shared = set.intersection(*(set(points) for points in known)) if known else set()
    return tuple((step, fmean(points[step] for points in known)) for step in sorted(shared))


def _dots(rows: Sequence[Pooled]) -> str:
    shown = [
        DotRow(
            label=row.label,
            estimate=row.accuracy,
            parts=tuple(cell.run.accuracy.mean for cell in row.finished if cell.run.accuracy.num),
        )
        for row in rows
    ]
    caption = "Small: each seed. Diamond: their mean with its 95 % interval."
    return svg_file(draw_dots(shown), title="Accuracy", caption=caption, size=dots_size(shown))
