"""How an episode ends and how a tool call ends: two closed lists that everything else counts by.

An :class:`Outcome` knows whether it *terminated* the task (the policy finished), *truncated* it (a budget cut it
off) or *failed* through infrastructure. Failed episodes carry no reward and enter no baseline, because a dead
sandbox says nothing about the policy.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Outcome", "ToolStatus"]


class Outcome(StrEnum):
    """Why an episode ended. Exactly one of ``terminated``, ``truncated`` and ``failed`` holds."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    MAX_TURNS = "max_turns"
    CONTEXT_FULL = "context_full"
    TURN_TOO_LONG = "turn_too_long"
    VOID_TURNS = "void_turns"
    INVALID_CALLS = "invalid_calls"
    WALL_TIME = "wall_time"
    SANDBOX_OUTAGE = "sandbox_outage"
    VERIFIER_OUTAGE = "verifier_outage"
    ENGINE_OUTAGE = "engine_outage"
    CANCELLED = "cancelled"

    @property
    def terminated(self) -> bool:
        """The policy itself brought the episode to an end."""
        return self in _TERMINATED

    @property
    def failed(self) -> bool:
        """Infrastructure ended it, or whoever cancelled it: unscored, never 0."""
        return self in _FAILED

    @property
    def truncated(self) -> bool:
        """A budget ended it: scored as an episode without an answer."""
        return not (self.terminated or self.failed)


_TERMINATED = frozenset({Outcome.ANSWERED, Outcome.NO_ANSWER, Outcome.VOID_TURNS, Outcome.INVALID_CALLS})
_FAILED = frozenset({Outcome.SANDBOX_OUTAGE, Outcome.VERIFIER_OUTAGE, Outcome.ENGINE_OUTAGE, Outcome.CANCELLED})


class ToolStatus(StrEnum):
    """How one tool call ended. The first seven mirror the sandbox's own statuses one to one."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    KILLED = "killed"
    OUTAGE = "outage"
    MALFORMED = "malformed"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_ARGUMENTS = "bad_arguments"

    @property
    def invalid(self) -> bool:
        """The call never reached a tool because the policy wrote it wrongly."""
        return self in _INVALID


_INVALID = frozenset({ToolStatus.MALFORMED, ToolStatus.UNKNOWN_TOOL, ToolStatus.BAD_ARGUMENTS})
