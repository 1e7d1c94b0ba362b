"""The numbers of the run view, ready to be read: name, value, and what it means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.stats import AtK, Estimate, Interval, Sample, Statistics, latest, pair_runs, statistics
from retool_env.errors import UsageError

__all__ = ["Fact", "comparison_facts", "run_facts"]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of a table."""

    name: str
    value: str
    about: str = ""


def run_facts(samples: Sequence[Sample]) -> list[Fact]:
    """The statistics of a run, best known first; nothing for a run without episodes."""
    if not samples:
        return []
    found = statistics(latest(samples))
    return [*_accuracy(found), *_at_k(found.at_k), *_behaviour(found), *_costs(found)]


def comparison_facts(first: Sequence[Sample], second: Sequence[Sample]) -> list[Fact]:
    """How the second run differs from the first, or why that cannot be said."""
    try:
        found = pair_runs(latest(first), latest(second))
    except UsageError as error:
        return [Fact(name="no paired comparison", value="", about=str(error))]
    low, high = found.interval
    equal = len(found.pairs) - found.num_better - found.num_worse
    facts = [
        Fact(
            name="difference, B minus A",
            value=f"{100 * found.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points",
            about="mean over problems of the difference of their averages, with its 95 % interval",
        ),
        Fact(
            name="problems better, worse, equal",
            value=f"{found.num_better}, {found.num_worse}, {equal}",
            about=f"exact sign test: p = {found.sign_p:.3g}",
        ),
    ]
    facts += [
        Fact(name=f"{row.name} of an episode", value=str(row), about=f"from {row.first:.3f} to {row.second:.3f}")
        for row in found.means
    ]
    if found.left_out:
        facts.append(Fact(name="problems left out", value=str(len(found.left_out)), about="failed throughout in a run"))
    return facts


def _accuracy(found: Statistics) -> list[Fact]:
    checks = ", ".join(f"{name} {_ends(interval)}" for name, interval in found.cross_checks.items())
    errors = (
        f"standard error over problems {_percent(found.clustered_error)}, over repeats {_percent(found.repeat_error)}"
    )
    return [
        Fact(
            name="problems",
            value=str(found.num_problems),
            about=f"{found.num_scored} scored episodes"
            + (f"; {len(found.unscored_problems)} problems without one" if found.unscored_problems else ""),
        ),
        Fact(
            name=f"mean@{found.num_samples}",
            value=_share(found.accuracy),
            about=f"{errors}; cross-checks: {checks}",
        ),
        Fact(
            name="infrastructure failures",
            value=str(found.num_failed),
            about=_listed(found.failures, "{}") or "none; they would be counted here and never scored",
        ),
    ]


def _at_k(rows: Sequence[AtK]) -> list[Fact]:
    return [
        Fact(
            name=f"pass@{row.k}",
            value=_share(row.best),
            about=f"maj@{row.k} {_share(row.majority)}, all right {_percent(row.worst.mean)}"
            + (f"; {row.num_left_out} problems with fewer samples left out" if row.num_left_out else ""),
        )
        for row in rows
    ]


def _behaviour(found: Statistics) -> list[Fact]:
    outcomes = _listed(found.outcomes, "{:.1%}")
    calls = _listed(found.calls, "{:.1%}") or "no calls"
    return [
        Fact(name="answered", value=_share(found.answered), about=f"outcomes: {outcomes}"),
        Fact(name="cut off by a budget", value=_share(found.truncated)),
        Fact(name="used a tool", value=_share(found.tool_use), about=f"{found.num_calls} calls: {calls}"),
    ]


def _costs(found: Statistics) -> list[Fact]:
    turns, tokens = found.turns, found.tokens
    return [
        Fact(
            name="turns",
            value=_number(turns.mean),
            about=f"from {turns.low:g} to {turns.high:g}; prompt and tools count",
        ),
        Fact(name="sampled tokens", value=_number(tokens.mean), about=f"from {tokens.low:g} to {tokens.high:g}"),
        Fact(name="tokens per right answer", value=_number(found.tokens_per_solved)),
        Fact(name="tool seconds per right answer", value=_number(found.tool_seconds_per_solved)),
    ]


def _listed(values: Mapping[str, float], spelling: str) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {spelling.format(value)}" for name, value in values.items())


def _share(value: Estimate) -> str:
    return "none" if math.isnan(value.mean) else f"{_percent(value.mean)} {_ends(Interval(value.low, value.high))}"


def _ends(interval: Interval) -> str:
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if math.isfinite(interval.low) else "none"


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{100 * value:.1f}%"


def _number(value: float) -> str:
    return "none" if not math.isfinite(value) else f"{value:.2f}" if value < 100 else f"{value:,.0f}"
