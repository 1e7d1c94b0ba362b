"""The numbers of an evaluation in Markdown, for ``summary.md``, the terminal and ``retool report``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pydantic import JsonValue

from agents.evaluation.summary import EvalSummary
from agents.stats import Estimate, Interval, Statistics

__all__ = ["budgets_of", "describe", "estimate_text", "markdown", "number_text", "policy_of", "table"]

_LISTED = 6


def markdown(found: EvalSummary) -> str:
    """Everything that a person reads about one evaluation."""
    parts = [f"## {_title(found)}", describe(found)]
    if found.overall is not None:
        parts += [_main(found.overall, found.unit), _at_k(found.overall), _shares(found.overall)]
    if found.families:
        parts.append(_families(found))
    parts.append(f"Misses by cause: {found.misses or 'none'}; listed in misses.md.")
    if found.num_failed or not found.complete:
        parts.append(_what_is_missing(found))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that can be read as it is; all columns but the first are flush right."""
    lines = [header, *rows]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    marks = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in lines
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (padded[0], marks, *padded[1:]))


def describe(found: EvalSummary) -> str:
    """One line: who was measured, on what, within which budgets."""
    identity = found.run.identity
    asked = f"{identity.problems['size']} problems x {identity.run['samples']} samples, seed {identity.run['seed']}"
    share = f"{found.num_played:,} of {found.run.num_episodes:,} episodes"
    return f"{policy_of(found)}: {asked}, {budgets_of(found)}; {share}; measured with `{found.run.hash}`."


def policy_of(found: EvalSummary) -> str:
    """Who was measured: the model's name, the folder of the checkpoint, or the name of the agent."""
    agent, config = found.run.identity.agent, found.run.config.get("agent")
    path = config.get("path") if isinstance(config, dict) else None
    name = str(agent["name"]).rpartition("/")[2]
    return f"{name} {agent['model']}" if agent.get("model") else f"{name} {path}" if path else name


def budgets_of(found: EvalSummary) -> str:
    """Sampling and budgets, which belong beside every figure."""
    sampling, limits = found.run.identity.sampling, found.run.identity.budgets
    cut = [f"top-p {sampling['top_p']}"] if sampling["top_p"] != 1 else []
    cut += [f"top-k {sampling['top_k']}"] if sampling["top_k"] else []
    unit = "bytes" if _env(found).get("tokenizer") == "bytes" else "tokens"
    room = f"{limits['max_turn_tokens']:,} {unit} a turn and {limits['max_context_tokens']:,} in all"
    warmth = ", ".join([f"temperature {sampling['temperature']:g}", *cut])
    return f"{warmth}, {limits['max_tool_rounds']} rounds of calls, {room}"


def estimate_text(value: Estimate) -> str:
    """``45.3 [38.1, 52.7]``, in percent; a dash without a number."""
    return "-" if math.isnan(value.mean) else f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def number_text(value: float, *, digits: int = 1) -> str:
    """With commas; a dash where there is none."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"


def _title(found: EvalSummary) -> str:
    problems = str(found.run.identity.problems["name"])
    if found.overall is None:
        return f"{problems}: nothing was played"
    name = f"mean@{found.overall.num_samples}" if found.overall.num_samples > 1 else "accuracy"
    return f"{found.overall.source or problems}: {name} {estimate_text(found.overall.accuracy)} %"


def _main(numbers: Statistics, unit: str) -> str:
    checks = numbers.cross_checks
    rows = [
        (f"right, mean@{numbers.num_samples}", estimate_text(numbers.accuracy)),
        (
            "standard error: other problems, these again",
            f"{_points(numbers.clustered_error)}, {_points(numbers.repeat_error)}",
        ),
        ("t interval, bootstrap interval", f"{_interval(checks['t'])}, {_interval(checks['bootstrap'])}"),
        ("answered", estimate_text(numbers.answered)),
        ("cut off by a budget", estimate_text(numbers.truncated)),
        ("used a tool", estimate_text(numbers.tool_use)),
        (f"calls that went wrong, of {numbers.num_calls:,}", estimate_text(numbers.tool_error)),
    ]
    tokens, seconds, turns = numbers.tokens, numbers.seconds, numbers.turns
    costs = [
        (f"{unit}: mean, for one solved", f"{number_text(tokens.mean)}, {number_text(numbers.tokens_per_solved)}"),
        ("seconds: mean, for one solved", f"{number_text(seconds.mean)}, {number_text(numbers.seconds_per_solved)}"),
        ("turns, as verl counts: mean, most", f"{number_text(turns.mean)}, {number_text(turns.high, digits=0)}"),
    ]
    return table((f"{numbers.num_problems} problems, {numbers.num_scored:,} samples", "% [95 %]"), [*rows, *costs])


def _at_k(numbers: Statistics) -> str:
    if len(numbers.at_k) < 2:
        return ""
    rows = [
        (
            str(at.k),
            estimate_text(at.best),
            estimate_text(at.majority),
            estimate_text(at.worst),
            str(at.num_problems),
        )
        for at in numbers.at_k
    ]
    return table(("k", "pass@k", "maj@k", "all k right", "problems"), rows)


def _shares(numbers: Statistics) -> str:
    rows = [("episodes ended", _listed(numbers.outcomes)), ("calls ended", _listed(numbers.calls))]
    rows += [("calls raised", _listed(numbers.errors))] if numbers.errors else []
    return "\n".join(f"- {name}: {text or 'none'}" for name, text in rows)


def _families(found: EvalSummary) -> str:
    rows = [
        (
            kind,
            str(numbers.num_scored),
            estimate_text(numbers.accuracy),
            estimate_text(numbers.tool_use),
            number_text(numbers.num_calls / max(numbers.num_scored, 1), digits=2),
            number_text(numbers.tokens.mean),
        )
        for kind, numbers in found.families.items()
    ]
    return table(("family", "samples", "right", "used a tool", "calls", found.unit), rows)


def _what_is_missing(found: EvalSummary) -> str:
    failures = found.overall.failures if found.overall else {}
    kinds = ", ".join(f"{name} {count}" for name, count in failures.items())
    failed = f"{found.num_failed} episodes were ended by infrastructure and are not scored ({kinds}); " if kinds else ""
    unplayed = found.run.num_episodes - found.num_played - found.num_failed
    rest = f"{unplayed} were not played; " if unplayed else ""
    return f"{failed}{rest}the same command again plays what is missing."


def _listed(shares: Mapping[str, float]) -> str:
    rows = list(_percentages(shares))
    more = f", and {len(rows) - _LISTED} more" if len(rows) > _LISTED else ""
    return ", ".join(rows[:_LISTED]) + more


def _percentages(shares: Mapping[str, float]) -> Iterator[str]:
    for name, share in shares.items():
        yield f"{name} {100 * share:.1f} %"


def _points(error: float) -> str:
    return "-" if math.isnan(error) else f"{100 * error:.1f}"


def _interval(found: Interval) -> str:
    return "-" if math.isnan(found.low) else f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _env(found: EvalSummary) -> Mapping[str, JsonValue]:
    env = found.run.config.get("env")
    return env if isinstance(env, dict) else {}
