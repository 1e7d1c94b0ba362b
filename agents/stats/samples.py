"""One episode as the statistics see it, without its tokens, so that a hundred thousand fit into memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from retool_env.trajectory import Trajectory

__all__ = ["Sample", "in_one_unit", "latest", "run_file"]

_EXCEPTION: Final = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Exit|Interrupt|Iteration|Warning))(?::|$)")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What counts about one episode.

    Attributes:
        problem: id of the problem.
        gold: the gold answer.
        source: where the problem came from.
        family: what kind of problem it is; ``""`` when nothing says so.
        answer: as extracted; ``None`` when there was none.
        statuses: of its tool calls, malformed ones included.
        errors: of the calls that raised, the class of each exception.
        num_turns: as verl counts: 1 for the prompt, plus assistant turns, plus tool turns.
        num_action_tokens: sampled tokens, by the endpoint's own count where there is one; see :func:`in_one_unit`.
        num_sampled: the same by the environment's count, which is in bytes where its tokenizer is ``bytes``.
        counted: ``num_action_tokens`` is the endpoint's count.
        seconds: wall time of the episode, waiting for the policy included; a time field.
        tool_seconds: of these in tools; a time field.
    """

    ticket: int
    problem: str
    gold: str
    source: str
    family: str
    outcome: Outcome
    correct: bool
    answer: str | None
    reward: float | None
    statuses: tuple[ToolStatus, ...]
    errors: tuple[str, ...]
    num_turns: int
    num_action_tokens: int
    num_sampled: int
    counted: bool
    seconds: float
    tool_seconds: float

    @classmethod
    def of(cls, trajectory: Trajectory) -> Sample:
        record = trajectory.record
        answered = record.verdict is not None and record.verdict.answered
        return cls(
            ticket=trajectory.ticket,
            problem=record.problem.id,
            gold=record.problem.answer,
            source=record.problem.source,
            family=record.problem.family,
            outcome=record.outcome,
            correct=record.correct,
            answer=record.verdict.answer if answered and record.verdict else None,
            reward=record.reward,
            statuses=tuple(call.status for call in record.calls),
            errors=tuple(_exception(call) for call in record.calls if call.status is ToolStatus.ERROR),
            num_turns=len(trajectory.transcript.spans),
            num_action_tokens=trajectory.num_counted or record.num_action_tokens,
            num_sampled=record.num_action_tokens,
            counted=trajectory.num_counted > 0,
            seconds=record.seconds,
            tool_seconds=sum(call.wall_seconds for call in record.calls),
        )

    @property
    def used_tool(self) -> bool:
        """A call reached a tool."""
        return any(not status.invalid for status in self.statuses)

    @property
    def num_tool_calls(self) -> int:
        """Calls that reached a tool."""
        return sum(not status.invalid for status in self.statuses)


def latest(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each ticket, in ticket order: of an episode that failed and was played again, the later one."""
    return sorted({sample.ticket: sample for sample in samples}.values(), key=lambda sample: sample.ticket)


def in_one_unit(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with their tokens counted alike: by the endpoint if it counted every scored one, else none of them.

    A mean over some episodes in tokens and others in bytes is no number of anything.
    """
    if all(sample.counted for sample in samples if not sample.outcome.failed):
        return list(samples)
    return [replace(sample, num_action_tokens=sample.num_sampled, counted=False) for sample in samples]


def _exception(call: CallRecord) -> str:
    """``ValueError``, from the last line that the interpreter showed; ``other`` for a tool that shows none."""
    *_, last = call.text.rstrip().splitlines() or [""]
    found = _EXCEPTION.match(last.strip())
    return found[1] if found else "other"


def run_file(run: Path) -> Path:
    """The trajectory file of a run: the file itself, or the one in the run folder."""
    return run / "trajectories.jsonl" if run.is_dir() else run
