"""Several evaluations in one table: ``retool report`` of evaluation folders, and the end of a suite.

Contract: one row for each run, with intervals. Runs that differ in nothing but the seed are pooled in a second table:
their samples are more samples of the same problems, and the interval is over problems as ever. A seed counts once: a
copy of a folder is no more samples, and is named. Budgets and sampling are
listed once for each hash that occurs, with what differs between the hashes of one data set. Numbers come from
``summary.json``, or from the episodes where these are newer, so a run that was killed has a row too.
Left out: which of two runs is better (``retool compare``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.evaluation.folder import is_evaluation
from agents.evaluation.identity import MEASURE, differences
from agents.evaluation.played import Played
from agents.evaluation.summary import EvalSummary, read_summary, unit_of
from agents.evaluation.text import budgets_of, estimate_text, number_text, policy_of, table
from agents.stats import Estimate, Statistics, statistics
from retool_env.errors import UsageError

__all__ = ["EvaluationRow", "evaluation_rows", "is_evaluation", "report_evaluations"]

_AT_K = ("pass@k", "maj@k")
_DIFFERENCES = 4


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One run in a report; ``name`` is its folder, as far as it differs from the others'."""

    name: str
    folder: Path
    found: EvalSummary


def evaluation_rows(folders: Sequence[Path]) -> list[EvaluationRow]:
    """The runs in ``folders``, in their order.

    Raises:
        UsageError: one of them holds no evaluation.
    """
    if not folders:
        raise UsageError("there is nothing to report; give folders of evaluations")
    names = _names(folders)
    return [
        EvaluationRow(name=name, folder=folder, found=read_summary(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def report_evaluations(folders: Sequence[Path]) -> str:
    """The tables, as Markdown.

    Raises:
        UsageError: one of the folders holds no evaluation.
    """
    rows = evaluation_rows(folders)
    parts = [_runs(rows), _pooled(rows), _measures(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(rows: Sequence[EvaluationRow]) -> str:
    header = ("run", "who", "problems", "right [95 %]", *_AT_K, "tool", "cut off", "per solved", "left", "measured")
    return table(header, [_run_cells(row) for row in rows])


def _run_cells(row: EvaluationRow) -> list[str]:
    found = row.found
    missing = found.run.num_episodes - found.num_played
    return [
        row.name,
        policy_of(found),
        *_numbers(found, found.overall, found.unit),
        str(missing or "-"),
        f"`{found.run.hash[:6]}`",
    ]


def _numbers(found: EvalSummary, numbers: Statistics | None, unit: str) -> list[str]:
    problems = str(found.run.identity.problems["name"])
    if numbers is None:
        return [problems, *["-"] * 6]
    largest = numbers.at_k[-1] if numbers.at_k else None
    at_k = [f"{_percent(largest.best)} ({largest.k})", _percent(largest.majority)] if largest else ["-", "-"]
    cost = number_text(numbers.tokens_per_solved, digits=0)
    return [
        f"{numbers.source or problems}, {numbers.num_problems} x {numbers.num_samples}",
        estimate_text(numbers.accuracy),
        *at_k,
        _percent(numbers.tool_use),
        _percent(numbers.truncated),
        f"{cost} {unit}" if cost != "-" else cost,
    ]


def _pooled(rows: Sequence[EvaluationRow]) -> str:
    """Runs that are repetitions of each other, as one; of runs with one seed the first."""
    groups: dict[str, dict[str, EvaluationRow]] = {}
    copies = []
    for row in rows:
        seeds, seed = groups.setdefault(_all_but_the_seed(row.found), {}), str(row.found.run.identity.run["seed"])
        if first := seeds.get(seed):
            copies.append(f"- {row.name} has the settings and the seed of {first.name}: no further samples, not pooled")
        seeds.setdefault(seed, row)
    several = [list(seeds.values()) for seeds in groups.values() if len(seeds) > 1]
    header = ("who", "seeds", "problems", "right [95 %]", *_AT_K, "tool", "cut off", "per solved")
    pooled = ["Pooled over seeds:\n\n" + table(header, map(_pooled_cells, several))] if several else []
    return "\n\n".join([*pooled, *(["\n".join(copies)] if copies else [])])


def _pooled_cells(group: Sequence[EvaluationRow]) -> list[str]:
    first = group[0].found
    samples = [sample for row in group for sample in Played.read(row.folder).samples.values()]
    seeds = ", ".join(str(row.found.run.identity.run["seed"]) for row in group)
    return [
        policy_of(first),
        seeds,
        *_numbers(first, statistics(samples) if samples else None, unit_of(first.run, samples)),
    ]


def _all_but_the_seed(found: EvalSummary) -> str:
    identity = found.run.identity
    repeated = {name: value for name, value in identity.run.items() if name != "seed"}
    return json.dumps([found.run.hash, identity.agent, repeated], sort_keys=True)


def _measures(rows: Sequence[EvaluationRow]) -> str:
    """What each hash stands for, and how those of one data set differ."""
    first: dict[str, EvalSummary] = {}
    for row in rows:
        first.setdefault(row.found.run.hash, row.found)
    lines = []
    by_problems: dict[str, EvalSummary] = {}
    for name, found in first.items():
        identity = found.run.identity
        other = by_problems.setdefault(str(identity.problems["digest"]), found)
        same = differences(other.run.identity, identity, MEASURE, form="{key}={two} (not {one})")
        changed = f"; other than `{other.run.hash[:6]}`: {_some(same)}" if other is not found and same else ""
        lines.append(f"- `{name[:6]}`: {budgets_of(found)}{changed}")
    return "\n".join(lines)


def _some(found: Sequence[str]) -> str:
    more = f", and {len(found) - _DIFFERENCES} more" if len(found) > _DIFFERENCES else ""
    return ", ".join(found[:_DIFFERENCES]) + more


def _percent(value: Estimate) -> str:
    return f"{100 * value.mean:.1f}" if value.num else "-"


def _names(folders: Sequence[Path]) -> list[str]:
    """Each folder without what all of them begin with; a single one by its own name."""
    if len(folders) == 1:
        return [folders[0].resolve().name]
    parts = [folder.resolve().parts for folder in folders]
    common = 0
    while len({part[: common + 1] for part in parts}) == 1 and all(len(part) > common + 1 for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]
