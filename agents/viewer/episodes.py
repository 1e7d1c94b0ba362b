"""An episode as the page reads it: one row of columns for the list, and one JSON object for when it is opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from agents.viewer.pieces import Vocabulary
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.trajectory import Trajectory
from retool_env.transcript import Transcript

__all__ = ["OUTCOMES", "STATUSES", "Columns", "ProblemTable", "episode_json"]

OUTCOMES = tuple(Outcome)
STATUSES = tuple(ToolStatus)
_QUESTION_CHARS = 300
_DIGITS = 4  # of log-probabilities


@dataclass(frozen=True, kw_only=True)
class ProblemTable:
    """The problems of the page, each once; columns of equal length."""

    id: list[str] = field(default_factory=list)
    question: list[str] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    family: list[str] = field(default_factory=list)
    index: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)

    def place(self, problem: Problem) -> int:
        """The row of a problem, made when it is new. The same id with another gold answer is another problem."""
        key = (problem.id, problem.answer)
        if key not in self.index:
            self.index[key] = len(self.id)
            self.id.append(problem.id)
            self.question.append(problem.question[:_QUESTION_CHARS])
            self.answer.append(problem.answer)
            self.family.append(problem.family)
        return self.index[key]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the list shows, sorts and filters by; lists of equal length, one entry for each episode.

    Attributes:
        run: 0, or 1 for the second run of a comparison.
        problem: row of the problem table.
        outcome: place in ``OUTCOMES``.
        verdict: 1 right, 0 wrong, -1 not judged.
        reward: ``None`` when unscored.
        advantage: reward minus the mean reward of the scored episodes of its group; ``None`` when unscored.
        statuses: bit ``k`` is set when a call ended with ``STATUSES[k]``.
        version: newest policy version that sampled a token; -1 when none did.
    """

    run: list[int] = field(default_factory=list)
    ticket: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    sample: list[int] = field(default_factory=list)
    problem: list[int] = field(default_factory=list)
    outcome: list[int] = field(default_factory=list)
    verdict: list[int] = field(default_factory=list)
    answer: list[str] = field(default_factory=list)
    reward: list[float | None] = field(default_factory=list)
    advantage: list[float | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    version: list[int] = field(default_factory=list)

    def add(self, trajectory: Trajectory, *, run: int, problem: int) -> None:
        """Append an episode; its advantage is filled in by :meth:`fill_advantages`."""
        record = trajectory.record
        self.run.append(run)
        self.ticket.append(trajectory.ticket)
        self.group.append(trajectory.group)
        self.sample.append(trajectory.sample)
        self.problem.append(problem)
        self.outcome.append(OUTCOMES.index(record.outcome))
        self.verdict.append(-1 if record.verdict is None else int(record.correct))
        self.answer.append(record.verdict.answer if record.verdict else "")
        self.reward.append(record.reward)
        self.advantage.append(None)
        self.statuses.append(sum(1 << STATUSES.index(status) for status in {call.status for call in record.calls}))
        self.calls.append(len(record.calls))
        self.turns.append(len(record.turns))
        self.tokens.append(record.num_action_tokens)
        self.version.append(int(trajectory.transcript.policy_version.max(initial=-1)))

    def fill_advantages(self) -> None:
        """Once all episodes are there: compare each with its group, which is one of a run, a problem and a number."""
        rewards: dict[tuple[int, int, int], list[float]] = {}
        keys = list(zip(self.run, self.problem, self.group, strict=True))
        for key, reward in zip(keys, self.reward, strict=True):
            if reward is not None:
                rewards.setdefault(key, []).append(reward)
        means = {key: sum(values) / len(values) for key, values in rewards.items()}
        self.advantage[:] = [
            None if reward is None else round(reward - means[key], 6)
            for key, reward in zip(keys, self.reward, strict=True)
        ]


def episode_json(trajectory: Trajectory, vocabulary: Vocabulary | None) -> bytes:
    """Everything that is shown of an opened episode; ``assets/transcript.js`` and ``assets/tokens.js`` read it."""
    record = trajectory.record
    prompt = record.problem.prompt
    row = {
        "prompt": [["user", prompt]] if isinstance(prompt, str) else [[m.role, m.content] for m in prompt],
        "metadata": record.problem.metadata,
        "turns": record.turns,
        "calls": [
            {
                "turn": call.turn,
                "name": call.name,
                "code": call.code,
                "arguments": dict(call.arguments),
                "status": call.status,
                "text": call.text,
                "seconds": round(call.wall_seconds, 4),
                "span": call.span,
            }
            for call in record.calls
        ],
        "verdict": [record.verdict.marker, record.verdict.method, record.verdict.reason] if record.verdict else None,
        "parts": [[part.name, part.raw, part.weight] for part in record.reward_parts],
        "tokens": _tokens(trajectory.transcript, vocabulary),
    }
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="backslashreplace")


def _tokens(transcript: Transcript, vocabulary: Vocabulary | None) -> dict[str, object]:
    ids: list[int] = transcript.token_ids.tolist()
    return {
        "ids": ids,
        "texts": vocabulary.joined(ids) if vocabulary else {},
        "spans": [[span.role, span.turn, span.start, span.end] for span in transcript.spans],
        "mask": _runs(transcript.action_mask.astype(np.int64)),
        "versions": _runs(transcript.policy_version),
        "logprobs": _logprobs(transcript.logprobs),
    }


def _runs(values: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Equal neighbours as (value, how many)."""
    listed: Sequence[int] = values.tolist()
    return [(value, len(list(same))) for value, same in groupby(listed)]


def _logprobs(values: NDArray[np.float32]) -> list[float | None]:
    rounded: list[float] = np.round(values.astype(np.float64), _DIGITS).tolist()
    return [value if value - value == 0 else None for value in rounded]  # NaN and infinity have no JSON
