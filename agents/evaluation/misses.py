"""Every wrong answer of a run with its cause: the sandbox, the parser, the verifier, infrastructure, or none of them.

In the last case the agent's own program or answer was wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retool_env.files import atomic
from retool_env.outcome import Outcome, ToolStatus
from retool_env.trajectory import Trajectory

__all__ = ["Miss", "count_misses", "miss_cause", "write_misses"]

_LIMITS = {ToolStatus.TIMEOUT, ToolStatus.MEMORY, ToolStatus.KILLED, ToolStatus.OUTPUT_LIMIT}


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One wrong answer; ``reason`` is the verifier's, ``statuses`` are those of the calls."""

    ticket: int
    problem: str
    cause: str
    gold: str
    answer: str
    reason: str
    statuses: str

    @classmethod
    def of(cls, trajectory: Trajectory) -> Miss | None:
        """``None`` for a right answer."""
        if not (cause := miss_cause(trajectory)):
            return None
        record = trajectory.record
        answer, reason = (record.verdict.answer, record.verdict.reason) if record.verdict else ("", trajectory.failure)
        return cls(
            ticket=trajectory.ticket,
            problem=record.problem.id,
            cause=cause,
            gold=record.problem.answer,
            answer=answer,
            reason=reason,
            statuses=" ".join(call.status for call in record.calls),
        )


def miss_cause(trajectory: Trajectory) -> str:
    """Where a wrong answer comes from; ``""`` for a right one."""
    record = trajectory.record
    if record.correct:
        return ""
    if record.outcome.failed:
        return f"infrastructure: {record.outcome}"
    statuses = {call.status for call in record.calls}
    if limits := statuses & _LIMITS:
        return "sandbox limit: " + ", ".join(sorted(limits))
    if any(call.status.invalid for call in record.calls):
        return "parser: malformed call"
    if record.outcome is not Outcome.ANSWERED:
        return f"no answer: {record.outcome}"
    assert record.verdict is not None
    if record.verdict.reason in ("timeout", "outage"):
        return f"verifier: {record.verdict.reason}"
    if ToolStatus.ERROR in statuses:
        return "program: raised an error"
    return "program or answer: wrong value" if record.calls else "answer: wrong value"


def count_misses(misses: Iterable[Miss]) -> str:
    """``cause number, ...``, the most frequent first; ``""`` without any."""
    counts = Counter(miss.cause for miss in misses)
    return ", ".join(f"{cause} {count}" for cause, count in counts.most_common())


def write_misses(path: Path, misses: Sequence[Miss]) -> None:
    """All of them as one Markdown table."""
    lines = [
        "# Misses",
        "",
        count_misses(misses) or "none",
        "",
        "| problem | cause | gold | answer | verdict | statuses |",
        "|---|---|---|---|---|---|",
    ]
    for miss in misses:
        cells = [miss.problem, miss.cause, miss.gold, miss.answer, miss.reason, miss.statuses]
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
