"""The figure and the table of docs/mask-ablation.md: `python benchmarks/ablation.py runs/learning FIGURE.svg`.

RUNS is where `python benchmarks/learning.py --only grpo unmasked --out RUNS` left its runs. Per step and per setting:
mean and 95 % t-interval over the seeds, of the samples that the step trained on (fresh problems, temperature 1) and of
the examinations (500 held-out problems, greedily). Steps that not every seed has are left out.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from agents.report.axes import Axis, Scale, make_axis, step_axis
from agents.report.markup import Markup, tag
from agents.run_folder import read_metrics
from agents.stats.intervals import t_interval

SETTINGS = {"grpo": "masked", "unmasked": "unmasked"}
COLOURS = {"grpo": "#075dd4", "unmasked": "#da6e0e"}
WIDTH, HEIGHT, COLUMNS = 360, 230, 2
MIN_SEEDS = 2


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart; ``metric`` is a name of ``metrics.jsonl``, or ``accuracy`` of the examinations."""

    title: str
    metric: str
    scale: Scale


PANELS = [
    Panel(title="Accuracy on 500 held-out problems, greedy", metric="accuracy", scale="percent"),
    Panel(title="Accuracy of the samples", metric="accuracy/mean", scale="percent"),
    Panel(title="Entropy of the policy's tokens, nats", metric="rollout_entropy/mean", scale="linear"),
    Panel(title="Length: tokens that the policy wrote", metric="num_action_tokens/mean", scale="linear"),
]
IN_THE_TABLE = [*PANELS, Panel(title="Gradient norm, which is clipped at 1", metric="actor/grad_norm", scale="linear")]
Curve = dict[int, list[float]]
"""The values of all seeds by step."""


def curve(folder: Path, name: str, metric: str) -> Curve:
    values: Curve = defaultdict(list)
    files = sorted(folder.glob(f"{name}-*.json"))
    for file in files:
        rows = json.loads(file.read_text(encoding="utf-8"))["examinations"]
        if metric != "accuracy":
            every = read_metrics(folder / file.stem / "metrics.jsonl")
            rows = [row for row in every if row["phase"] == "train"]
        for row in rows:
            values[row["step"]].append(row[metric])
    return {step: row for step, row in values.items() if len(row) == len(files) >= MIN_SEEDS}


def band(values: Curve) -> list[tuple[int, float, float, float]]:
    """Step, mean, low and high."""
    return [(step, fmean(row), *t_interval(row)) for step, row in sorted(values.items())]


def draw(panel: Panel, curves: Mapping[str, Curve], place: tuple[int, int]) -> Markup:
    bands = {name: band(values) for name, values in curves.items()}
    x = step_axis([row[0] for rows in bands.values() for row in rows], start=52, end=WIDTH - 16)
    edges = [edge for rows in bands.values() for row in rows for edge in row[2:]]
    y = make_axis(panel.scale, edges, start=HEIGHT - 30, end=34)
    parts = [tag("text", panel.title, x=12, y=18, font_weight="bold"), *_grid(x, y)]
    for name, rows in bands.items():
        parts += _line(rows, x, y, COLOURS[name])
    return tag("g", *parts, transform=f"translate({place[0]} {place[1]})")


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    for value, text in y.ticks:
        parts.append(tag("path", d=f"M{x.start} {y(value):.1f}H{x.end}", stroke="#d5d8db"))
        parts.append(tag("text", text, x=x.start - 6, y=y(value) + 4, text_anchor="end"))
    for value, text in x.ticks:
        parts.append(tag("text", text, x=x(value), y=y.start + 16, text_anchor="middle"))
    return parts


def _line(rows: Sequence[tuple[int, float, float, float]], x: Axis, y: Axis, colour: str) -> list[Markup]:
    there = [f"{x(step):.1f} {y(min(high, y.high)):.1f}" for step, _, _, high in rows]
    back = [f"{x(step):.1f} {y(max(low, y.low)):.1f}" for step, _, low, _ in reversed(rows)]
    means = [f"{x(step):.1f} {y(mean):.1f}" for step, mean, _, _ in rows]
    return [
        tag("path", d=f"M{'L'.join(there + back)}Z", fill=colour, fill_opacity=0.18),
        tag("path", d=f"M{'L'.join(means)}", fill="none", stroke=colour, stroke_width=1.8),
    ]


def figure(folder: Path) -> Markup:
    parts = []
    for k, panel in enumerate(PANELS):
        curves = {name: curve(folder, name, panel.metric) for name in SETTINGS}
        parts.append(draw(panel, curves, (k % COLUMNS * WIDTH, k // COLUMNS * HEIGHT)))
    width, bottom = COLUMNS * WIDTH, -(-len(PANELS) // COLUMNS) * HEIGHT
    for k, (name, label) in enumerate(SETTINGS.items()):
        parts.append(tag("path", d=f"M{52 + 140 * k} {bottom + 12}h28", stroke=COLOURS[name], stroke_width=3))
        parts.append(tag("text", label, x=88 + 140 * k, y=bottom + 16))
    parts.append(tag("text", "step", x=width - 16, y=bottom + 16, text_anchor="end"))
    return tag(
        "svg",
        tag("rect", width="100%", height="100%", fill="#fdfdfc"),
        tag("g", *parts, font_family="sans-serif", font_size=12, fill="#1d2126"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {bottom + 28}",
        width=width,
        height=bottom + 28,
    )


def table(folder: Path, steps: Sequence[int]) -> str:
    """Means with intervals at some steps, as Markdown; metrics of a step are of the samples that it trains on."""
    lines = ["| | setting | " + " | ".join(f"step {step}" for step in steps) + " |", "| --- " * (2 + len(steps)) + "|"]
    for panel in IN_THE_TABLE:
        for name, label in SETTINGS.items():
            values = curve(folder, name, panel.metric)
            cells = [_cell(values.get(step, []), panel.scale) for step in steps]
            lines.append(f"| {panel.title} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Sequence[float], scale: Scale) -> str:
    if not row:
        return ""
    mean, (low, high) = fmean(row), t_interval(row)
    if scale == "percent":
        return f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of benchmarks/learning.py")
    parser.add_argument("figure", type=Path, help="an .svg file")
    parser.add_argument("--steps", nargs="+", type=int, default=[0, 4, 8, 11], help="of the table")
    options = parser.parse_args()
    options.figure.write_text(figure(options.runs) + "\n", encoding="utf-8")
    print(table(options.runs, options.steps))


if __name__ == "__main__":
    main()
