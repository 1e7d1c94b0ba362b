"""The page as a whole: sections in their order, and a file that is there completely or not at all.

The same input gives the same bytes: nothing on the page depends on the time, the machine or the order of a set. The
page is closed in itself, and its content security policy makes the browser keep it that way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.report.bars import BarGroup, bar_chart
from agents.report.curves import stage_curves
from agents.report.markup import Markup, join, tag
from agents.report.stages import MODES, Stage, StageData, all_families, load_stage
from agents.report.style import STYLE
from agents.report.tables import evaluation_notes, family_table, headline_table
from agents.report.transcripts import CLASSES, LIKELY, Pieces, pick_cases, show_case

__all__ = ["write_report"]

COMMAND = "command"
ESTIMATES = (
    "Shares of held-out episodes, with 95 % intervals (Wilson; over problem means where a problem was sampled more "
    "than once). Tool-call rate: episodes in which at least one program ran."
)
STRATEGIC = (
    "Strategic tool use means calling where it helps and not where it does not: easy problems, which the model can do "
    "in its head, without a program, and hard ones with one."
)
BARS = "Episodes with at least one call, 95 % interval."


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    stages: Sequence[Stage],
    facts: Mapping[str, str],
    pieces: Pieces,
    easy_families: Sequence[str],
) -> None:
    """Write the report of a run.

    Args:
        path: of the HTML file; replaced as a whole.
        title: of the page.
        lead: what the page shows; blank lines separate paragraphs.
        stages: in the order of training.
        facts: names and values for the top of the page; ``command`` goes to the foot, as how to reproduce it.
        pieces: one piece of text for each token id.
        easy_families: families for which a tool call is a waste.

    Raises:
        UsageError: an evaluation file is missing or broken.
    """
    loaded = [load_stage(stage) for stage in stages]
    families = all_families(loaded, easy_families)
    body = [
        _header(title, lead, facts),
        _results(loaded, families, easy_families),
        _section("Learning curves", *(stage_curves(data, families) for data in loaded)),
        _strategic(loaded, families, easy_families),
        _transcripts(loaded, families, easy_families, pieces),
        _footer(facts),
    ]
    _replace(path, _document(title, body))


def _header(title: str, lead: str, facts: Mapping[str, str]) -> Markup:
    paragraphs = [tag("p", part.strip(), class_="lead") for part in lead.split("\n\n") if part.strip()]
    shown = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items() if name != COMMAND]
    return tag("header", tag("h1", title), *paragraphs, *([tag("dl", *shown)] if shown else []))


def _results(stages: Sequence[StageData], families: Sequence[str], easy: Sequence[str]) -> Markup:
    hard = [family for family in families if family not in easy]
    notes = [tag("p", note, class_="note") for note in evaluation_notes(stages)]
    tables = [headline_table(stages, easy, hard), family_table(stages, families, easy)] if stages else []
    about = tag("p", ESTIMATES, class_="about")
    return _section("Results", about, *tables[:1], *notes, *([tag("h3", "By family"), *tables[1:]] if families else []))


def _strategic(stages: Sequence[StageData], families: Sequence[str], easy: Sequence[str]) -> Markup:
    kinds = {"easy": easy, "hard": [family for family in families if family not in easy]}
    charts: list[Markup] = []
    for mode in MODES:
        rates = [{kind: data.summary(mode, some).tool_rate for kind, some in kinds.items()} for data in stages]
        groups = [BarGroup(label=data.stage.name, bars=bars) for data, bars in zip(stages, rates, strict=True)]
        charts.append(bar_chart(f"Tool-call rate, {mode}", BARS, groups))
    named = [(tag("i", class_=f"key k{k}"), kind, some) for k, (kind, some) in enumerate(kinds.items()) if some]
    legend = _legend([join([key, f"{kind}: {', '.join(some)}"]) for key, kind, some in named])
    about = tag("p", STRATEGIC, class_="about")
    return _section("Strategic tool use", about, legend, tag("div", *charts, class_="grid wide"))


def _transcripts(stages: Sequence[StageData], families: Sequence[str], easy: Sequence[str], pieces: Pieces) -> Markup:
    cases = pick_cases(stages, families, easy)
    if not cases:
        return _section("Transcripts", tag("p", "No problem tells the stages apart.", class_="note"))
    about = "Sampled episodes, chosen by rule. Point at a token for its id and its log-probability."
    names = [tag("span", name, class_=f"t {name}") for name in CLASSES.values()]
    bounds = [f"p ≥ {LIKELY[0]:g}", *(f"p < {p:g}" for p in LIKELY)]
    shades = [tag("span", bound, class_=f"t policy q{k}") for k, bound in enumerate(bounds)]
    return _section(
        "Transcripts",
        tag("p", about, class_="about"),
        tag("input", type="checkbox", id="shade"),
        tag("label", "Shade policy tokens by probability", for_="shade"),
        _legend(names),
        _legend(shades, "legend shades"),
        tag("div", *(show_case(case, stages, pieces) for case in cases), class_="cases"),
    )


def _footer(facts: Mapping[str, str]) -> Markup:
    if COMMAND not in facts:
        return join([])
    return tag("footer", tag("h2", "Reproduce"), tag("pre", tag("code", facts[COMMAND]), tabindex=0))


def _legend(entries: Sequence[Markup], class_: str = "legend") -> Markup:
    return tag("ul", *(tag("li", entry) for entry in entries), class_=class_)


def _section(title: str, *content: str) -> Markup:
    return tag("section", tag("h2", title), *content)


def _document(title: str, body: Sequence[Markup]) -> Markup:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
    page = tag("html", head, tag("body", tag("main", *body)), lang="en")
    return join([Markup("<!doctype html>\n"), page, "\n"])


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")  # lone surrogates have no UTF-8
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
