"""The numbers: a headline table of the stages, a table by family, and what a reader must know about them.

Every number comes from :func:`agents.stats.summarise`; nothing is computed here. The rates of easy and of hard families
are over all episodes of those families together.
"""

from __future__ import annotations

from collections.abc import Sequence

from agents.report.bars import strip
from agents.report.markup import Markup, tag
from agents.report.stages import MODES, StageData
from agents.stats import Estimate

__all__ = ["evaluation_notes", "family_table", "headline_table"]


def headline_table(stages: Sequence[StageData], easy: Sequence[str], hard: Sequence[str]) -> Markup:
    """Rows are stages; accuracy, then tool-call rates of easy and hard families, each sampled and greedy."""
    groups = ("Accuracy", "Tool-call rate, easy families", "Tool-call rate, hard families")
    top = tag("tr", tag("th", "Stage", scope="col", rowspan=2), *(_over(name) for name in groups))
    head = tag("thead", top, tag("tr", *(_column(mode) for _ in groups for mode in MODES)))
    rows = [_headline_row(data, easy, hard) for data in stages]
    return _table("Accuracy and tool-call rate by stage", "headline", head, rows)


def family_table(stages: Sequence[StageData], families: Sequence[str], easy: Sequence[str]) -> Markup:
    """One row for each family and stage: accuracy and tool-call rate, each sampled and greedy."""
    groups = ("Accuracy", "Tool-call rate")
    firsts = [tag("th", name, scope="col", rowspan=2) for name in ("Family", "Stage")]
    top = tag("tr", *firsts, *(_over(name) for name in groups))
    head = tag("thead", top, tag("tr", *(_column(mode) for _ in groups for mode in MODES)))
    rows = [
        _family_row(data, family, family in easy, rowspan=0 if k else len(stages))
        for family in families
        for k, data in enumerate(stages)
    ]
    return _table("Accuracy and tool-call rate by family and stage", "families", head, rows)


def evaluation_notes(stages: Sequence[StageData]) -> list[str]:
    """What is missing, left out or not comparable."""
    notes = [] if stages else ["There are no stages."]
    for data in stages:
        for mode in MODES:
            where, summary = f"{data.stage.title}, {mode}", data.summary(mode)
            if mode not in data.evals:
                notes.append(f"{where}: not evaluated.")
            elif not data.evals[mode]:
                notes.append(f"{where}: the evaluation has no episodes.")
            elif summary.num_failed:
                notes.append(f"{where}: {summary.num_failed} episodes ended by infrastructure are left out.")
    asked = {frozenset(t.record.problem.id for t in some) for data in stages for some in data.evals.values() if some}
    if len(asked) > 1:
        notes.append("The evaluations are not of the same problems; compare them with care.")
    return notes


def _headline_row(data: StageData, easy: Sequence[str], hard: Sequence[str]) -> Markup:
    counts = {mode: data.summary(mode).accuracy.num for mode in MODES if data.evals.get(mode)}
    same = len(set(counts.values())) == 1
    num = str(*set(counts.values())) if same else ", ".join(f"{num} {mode}" for mode, num in counts.items())
    name = tag("th", data.stage.title, tag("small", f"n = {num or 0}"), scope="row")
    accuracies = [data.summary(mode).accuracy for mode in MODES]
    rates = [data.summary(mode, families).tool_rate for families in (easy, hard) for mode in MODES]
    return tag("tr", name, *map(_cell, [*accuracies, *rates]))


def _family_row(data: StageData, family: str, is_easy: bool, rowspan: int) -> Markup:
    summaries = [data.summary(mode, [family]) for mode in MODES]
    mark = [tag("small", "easy")] if is_easy else []
    name = [tag("th", family, *mark, scope="rowgroup", rowspan=rowspan)] if rowspan else []
    cells = [_cell(s.accuracy) for s in summaries] + [_cell(s.tool_rate) for s in summaries]
    return tag("tr", *name, tag("th", data.stage.title, scope="row"), *cells, class_="first" if rowspan else None)


def _cell(estimate: Estimate) -> Markup:
    if not estimate.num:
        return tag("td", tag("span", "none", class_="none"))
    mean = tag("span", f"{100 * estimate.mean:.1f} %", class_="mean")
    interval = tag("span", f"{100 * estimate.low:.1f} – {100 * estimate.high:.1f}", class_="interval")
    return tag("td", mean, interval, strip(estimate))


def _over(name: str) -> Markup:
    return tag("th", name, scope="colgroup", colspan=len(MODES))


def _column(name: str) -> Markup:
    return tag("th", name, scope="col")


def _table(caption: str, class_: str, head: Markup, rows: Sequence[Markup]) -> Markup:
    table = tag("table", tag("caption", caption), head, tag("tbody", *rows), class_=class_)
    return tag("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0)
