"""What became of tool calls, and where the time of episodes went; names follow verl where it has one.

A call's error has one of six classes. ``syntax`` and ``runtime`` are exceptions of the program, ``timeout`` and
``limit`` (memory, output, killed) are the sandbox's, ``invalid`` never reached a tool because it was written wrongly,
and ``infrastructure`` is nobody's fault in the episode. Rates are of all calls; with ``tool_status/ok`` they make 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

from retool_env.outcome import ToolStatus
from retool_env.record import CallRecord
from retool_env.tools.interpreter import NO_OUTPUT
from retool_env.trajectory import Trajectory

__all__ = ["Metrics", "call_metrics", "shares", "time_metrics"]

Metrics = dict[str, float]
ERRORS: Final = ("syntax", "runtime", "timeout", "limit", "infrastructure", "invalid")
_CLASS: Final[Mapping[ToolStatus, str]] = {
    ToolStatus.ERROR: "runtime",
    ToolStatus.TIMEOUT: "timeout",
    ToolStatus.MEMORY: "limit",
    ToolStatus.OUTPUT_LIMIT: "limit",
    ToolStatus.KILLED: "limit",
    ToolStatus.OUTAGE: "infrastructure",
    ToolStatus.MALFORMED: "invalid",
    ToolStatus.UNKNOWN_TOOL: "invalid",
    ToolStatus.BAD_ARGUMENTS: "invalid",
}
_SYNTAX: Final = re.compile(r"^(SyntaxError|IndentationError|TabError)\b")


def call_metrics(trajectories: Sequence[Trajectory]) -> Metrics:
    """Statuses and errors of the calls of a step, and what programs look like."""
    calls = [call for t in trajectories for call in t.record.calls]
    programs = [call for call in calls if call.code and not call.status.invalid]
    ran = [call for call in calls if call.status is ToolStatus.OK]
    return {
        **shares("tool_status", ToolStatus, (call.status for call in calls)),
        **shares("tool_error", ERRORS, map(error_class, calls)),
        **({"tool_calls/code_lines/mean": fmean(c.code.count("\n") + 1 for c in programs)} if programs else {}),
        **({"tool_calls/no_output": fmean(c.text.strip() == NO_OUTPUT for c in ran)} if ran else {}),
    }


def error_class(call: CallRecord) -> str:
    """One of :data:`ERRORS`, or ``none``."""
    *_, last = call.text.rstrip().splitlines() or [""]
    if call.status is ToolStatus.ERROR and _SYNTAX.match(last.strip()):
        return "syntax"
    return _CLASS.get(call.status, "none")


def time_metrics(trajectories: Sequence[Trajectory]) -> Metrics:
    """Seconds of an episode by what they were spent on, and the same of the slowest one."""
    if not trajectories:
        return {}
    rows = [_seconds(t) for t in trajectories]
    metrics: Metrics = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        ends = {"mean": fmean(values), "max": max(values), "min": min(values)}
        metrics |= {f"timing_s/agent_loop/{name}/{end}": value for end, value in ends.items()}
    slowest = max(range(len(rows)), key=lambda k: sum(rows[k].values()))
    transcript = trajectories[slowest].transcript
    prompt = transcript.prompt_length
    lengths = {"prompt_length": float(prompt), "response_length": float(len(transcript) - prompt)}
    return metrics | {f"timing_s/agent_loop/slowest/{k}": v for k, v in (rows[slowest] | lengths).items()}


def _seconds(trajectory: Trajectory) -> Metrics:
    record = trajectory.record
    return {
        "generate_sequences": trajectory.generate_seconds,
        "tool_calls": sum(call.wall_seconds for call in record.calls),
        "compute_score": record.verdict.elapsed if record.verdict is not None else 0.0,
    }


def shares(prefix: str, kinds: Iterable[str], values: Iterable[str]) -> Metrics:
    """Of each kind among the values; nothing where there are none."""
    counts = Counter(values)
    total = sum(counts.values())
    return {f"{prefix}/{kind}": counts[kind] / total for kind in kinds} if total else {}
