"""The pooled table: for a terminal, as Markdown, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from agents.stats import Estimate
from algos.report.pool import Cell, Pooled

__all__ = ["as_json", "markdown", "terminal", "unfinished"]

_ONE_SEED = "* one seed: the interval is over problems, not across seeds."
_PART = "≥: processes that were killed together with their sweep are not counted."


def terminal(rows: Sequence[Pooled]) -> Table:
    """The table for people at a terminal."""
    head, body = _cells(rows)
    table = Table(*head)
    for line in body:
        table.add_row(*line)
    return table


def markdown(rows: Sequence[Pooled], cells: Sequence[Cell], *, title: str, plot: str) -> str:
    """The table, the notes, the cells that are not finished, and the plot, as a page."""
    head, body = _cells(rows)
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    lines += [f"| {' | '.join(line)} |" for line in body]
    for note in notes(rows):
        lines += ["", note]
    if named := unfinished(cells):
        lines += ["", "Not finished:", "", *(f"- {line}" for line in named)]
    return "\n".join([*lines, "", f"![{title}]({plot})", ""])


def notes(rows: Sequence[Pooled]) -> list[str]:
    """What a reader must know about the marks in the table."""
    found = ["95 % intervals across seeds (Student's t), on the same problems."]
    found += [_ONE_SEED] if any(row.accuracy.num == 1 for row in rows) else []
    return found + ([_PART] if any(not row.spent.complete for row in rows) else [])


def unfinished(cells: Sequence[Cell]) -> list[str]:
    """Cells that are not behind the numbers, by name, and why."""
    return [
        f"{cell.record.label}: {cell.record.status}: {cell.record.why} ({cell.folder})"
        for cell in cells
        if cell.record.status != "finished"
    ]


def as_json(rows: Sequence[Pooled], cells: Sequence[Cell]) -> dict[str, object]:
    """The same for programs; shares are between 0 and 1, times are seconds."""
    return {
        "pooled": [
            {
                "label": row.label,
                "num_cells": len(row.cells),
                "num_finished": len(row.finished),
                "accuracy": _estimate(row.accuracy),
                "accuracy_greedy": _estimate(row.greedy),
                "tool_rate": _number(row.tool_rate),
                "steps": row.steps,
                "seconds": row.spent.seconds,
                "cpu_seconds": row.spent.cpu_seconds,
                "times_complete": row.spent.complete,
            }
            for row in rows
        ],
        "cells": [_cell(cell) for cell in cells],
    }


def _cell(cell: Cell) -> dict[str, object]:
    return {
        "folder": str(cell.folder),
        "values": cell.record.values,
        "status": cell.record.status,
        "why": cell.record.why if cell.record.status != "finished" else "",
        "attempts": [attempt.model_dump() for attempt in cell.record.attempts],
        "accuracy": _estimate(cell.run.accuracy),
        "accuracy_greedy": _estimate(cell.run.greedy),
        "tool_rate": _number(cell.run.tool_rate),
        "steps": cell.run.steps,
    }


def _estimate(estimate: Estimate) -> Mapping[str, float | None] | None:
    if not estimate.num:
        return None
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "num": estimate.num}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cells(rows: Sequence[Pooled]) -> tuple[list[str], list[list[str]]]:
    """Head and lines; columns that nothing stands in are left out."""
    head = ["", "seeds", "accuracy [95 %]", "greedy [95 %]", "tool-call rate", "steps", "wall, each", "CPU, each"]
    body = [
        [
            row.label,
            str(len(row.finished))
            if len(row.finished) == len(row.cells)
            else f"{len(row.finished)} of {len(row.cells)}",
            _show(row.accuracy),
            _show(row.greedy),
            "" if math.isnan(row.tool_rate) else f"{100 * row.tool_rate:.1f}%",
            str(row.steps or ""),
            _time(row.spent.seconds, row),
            _time(row.spent.cpu_seconds, row),
        ]
        for row in rows
    ]
    kept = [k for k in range(len(head)) if k == 0 or any(line[k] for line in body)]
    return [head[k] for k in kept], [[line[k] for k in kept] for line in body]


def _show(estimate: Estimate) -> str:
    return f"{str(estimate).strip()}{'*' if estimate.num == 1 else ''}" if estimate.num else ""


def _time(seconds: float, row: Pooled) -> str:
    if not row.finished:
        return ""
    shown = (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
    return shown if row.spent.complete else f"≥ {shown}"
