"""Reward parts of the tool-calling guide, which read what the tools wrote.

Purpose: training on tasks whose answer *is* the output of a tool, as the guide does.
Contract: declared ``reads_tool_results`` and never a default: the policy's own answer is not looked at, so a program
that prints the expected text is paid, and in mathematics that is not the task.
"""

from __future__ import annotations

from retool_env.errors import UsageError
from retool_env.record import EpisodeRecord

__all__ = ["tool_partial", "tool_selection"]


def tool_partial(record: EpisodeRecord, *, attempted: float = 0.1) -> float | None:
    """1 when the last tool output is the expected text, ``attempted`` for any other output, 0 without a call."""
    if record.outcome.failed:
        return None
    if not record.calls:
        return 0.0
    return 1.0 if _last_output_matches(record) else attempted


def tool_selection(record: EpisodeRecord, *, right_tool: float = 0.5) -> float | None:
    """1 when the expected tool was called last and gave the expected text, ``right_tool`` for the tool alone, else 0.

    Raises:
        UsageError: the problem has no column ``tool``, which names the expected one.
    """
    if record.outcome.failed:
        return None
    expected = record.problem.metadata.get("tool")
    if expected is None:
        raise UsageError(f"problem {record.problem.id!r}: tool_selection needs a column 'tool' with the expected tool")
    if not record.calls or record.calls[-1].name != expected:
        return 0.0
    return 1.0 if _last_output_matches(record) else right_tool


def _last_output_matches(record: EpisodeRecord) -> bool:
    return record.calls[-1].text.strip().lower() == record.problem.answer.strip().lower()
