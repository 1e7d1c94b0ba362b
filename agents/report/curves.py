"""Which curves a stage has: small multiples of what its ``metrics.jsonl`` holds.

A stage whose training rows have a reward is reinforcement learning and gets all five charts (one that was not recorded
says so); a stage with a loss gets the loss, and the two charts by family if it was evaluated on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.report.charts import LineChart, Series, line_chart
from agents.report.markup import Markup, join, tag
from agents.report.stages import Metrics, StageData

__all__ = ["stage_curves"]

GAP_BOUND = 1e-4
SMALL = (320, 210)
BY_FAMILY = "Thin: training batches. Strong: held-out problems."
GAP = "Trainer against sampler, largest of a batch."


def stage_curves(data: StageData, families: Sequence[str]) -> Markup:
    """Heading, description and charts of one stage."""
    stage = data.stage
    heading = [tag("h3", stage.title), tag("p", stage.description, class_="about")]
    if data.metrics is None:
        named = "was given" if stage.metrics is None else f"was found ({stage.metrics.name})"
        return tag("article", *heading, _note(f"No metrics file {named}, so there are no curves."))
    lost = data.metrics.num_unreadable
    notes = [_note(f"Unreadable lines of the metrics file, left out: {lost}.")] if lost else []
    return tag("article", *heading, *notes, _charts(data.metrics, families))


def _charts(metrics: Metrics, families: Sequence[str]) -> Markup:
    by_family = [
        _by_family(metrics, families, "Accuracy by family", "accuracy"),
        _by_family(metrics, families, "Tool-call rate by family", "tool_rate"),
    ]
    reward = LineChart(title="Reward", caption="Mean of a batch.", series=_one(metrics, "reward/mean"), size=SMALL)
    if reward.series[0].points:
        entropy = _one(metrics, "actor/entropy")
        gap = _one(metrics, "logprob_gap/max")
        small = [
            reward,
            LineChart(title="Entropy", caption="Nats for each policy token.", series=entropy, size=SMALL),
            LineChart(title="|Log-prob gap|", caption=GAP, series=gap, size=SMALL, scale="log", bound=GAP_BOUND),
        ]
        return join([_grid("wide", by_family), _grid("small", small)])
    loss = LineChart(title="Loss", caption="Mean over the target tokens of a batch.", series=_one(metrics, "loss"))
    if not loss.series[0].points:
        return _note("The metrics file has neither a reward nor a loss, so there are no curves.")
    return _grid("wide", [loss, *(chart for chart in by_family if any(one.points for one in chart.series))])


def _one(metrics: Metrics, key: str) -> tuple[Series, ...]:
    return (Series(label=key, points=metrics.series("train", key)),)


def _by_family(metrics: Metrics, families: Sequence[str], title: str, key: str) -> LineChart:
    thin = [
        Series(label=f"{family}, training", points=metrics.series("train", f"{key}/{family}"), slot=slot)
        for slot, family in enumerate(families)
    ]
    strong = [
        Series(label=family, points=metrics.series("eval", f"eval/{key}/{family}"), slot=slot, strong=True)
        for slot, family in enumerate(families)
    ]
    return LineChart(title=title, caption=BY_FAMILY, series=(*thin, *strong), scale="percent")


def _grid(name: str, charts: Sequence[LineChart]) -> Markup:
    return tag("div", *map(line_chart, charts), class_=f"grid {name}")


def _note(text: str) -> Markup:
    return tag("p", text, class_="note")
