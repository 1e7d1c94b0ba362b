"""The neutral record of one episode: file format, training input and viewer input.

One line of ``trajectories.jsonl`` is one :class:`Trajectory`. Losses, metrics, the report and re-scoring read this and
nothing else. In JSON a missing log-probability is ``null``, and so are the lists of log-probabilities and versions of
an episode that was written rather than sampled; everything round-trips exactly (float32 log-probabilities are written
with enough digits).
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.record import CallRecord, EpisodeRecord, RewardPart
from retool_env.transcript import Span, Transcript
from retool_env.verifier.verdict import Verdict

__all__ = ["Trajectory", "append_trajectories", "drop_torn_line", "read_trajectories"]

SCHEMA = 1
_BLOCK = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One finished episode with the policy's side joined to it.

    Attributes:
        ticket: number of the episode in its run.
        group: which samples share a problem and a baseline.
        sample: number within the group.
        record: what the environment knows.
        transcript: ids, mask, log-probabilities, policy versions.
        num_counted: sampled tokens by the count of an endpoint whose own ids are not known; 0 without one.
        failure: what infrastructure said when it ended the episode; ``""`` for every other outcome.
        generate_seconds: of its requests to the engine, all together; a time field, 0 when not measured.
    """

    ticket: int
    group: int
    sample: int
    record: EpisodeRecord
    transcript: Transcript
    num_counted: int = 0
    failure: str = ""
    generate_seconds: float = field(default=0.0, compare=False)

    @property
    def scored(self) -> bool:
        return self.record.reward is not None

    def to_json(self) -> str:
        """One line of JSON."""
        record, transcript = self.record, self.transcript
        row = {
            "schema": SCHEMA,
            "ticket": self.ticket,
            "group": self.group,
            "sample": self.sample,
            "problem": record.problem.model_dump(),
            "outcome": record.outcome,
            "reward": record.reward,
            "reward_parts": [{**asdict(part), "weighted": part.weighted} for part in record.reward_parts],
            "verdict": asdict(record.verdict) if record.verdict else None,
            "turns": record.turns,
            "calls": [asdict(call) for call in record.calls],
            "num_action_tokens": record.num_action_tokens,
            "num_void_turns": record.num_void_turns,
            "seconds": record.seconds,
            "num_counted": self.num_counted,
            "failure": self.failure,
            "generate_seconds": round(self.generate_seconds, 4),
            "token_ids": transcript.token_ids.tolist(),
            "action_mask": transcript.action_mask.astype(int).tolist(),
            "logprobs": _logprobs(transcript),
            "policy_version": transcript.policy_version.tolist() if (transcript.policy_version >= 0).any() else None,
            "spans": [[span.role, span.turn, span.start, span.end] for span in transcript.spans],
        }
        return json.dumps(row, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> Trajectory:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: no JSON, or of another schema; what is missing is a ``KeyError``.
        """
        row: dict[str, Any] = json.loads(line)
        if row["schema"] != SCHEMA:
            raise ValueError(f"schema {row['schema']}, and this version reads {SCHEMA}")
        record = EpisodeRecord(
            problem=Problem.model_validate(row["problem"]),
            outcome=Outcome(row["outcome"]),
            turns=tuple(row["turns"]),
            calls=tuple(_call(call) for call in row["calls"]),
            verdict=Verdict(**row["verdict"]) if row["verdict"] else None,
            num_action_tokens=row["num_action_tokens"],
            num_void_turns=row.get("num_void_turns", 0),
            seconds=row.get("seconds", 0.0),
            reward_parts=tuple(_reward_part(part) for part in row["reward_parts"]),
            ticket=row["ticket"],
        )
        nothing, unknown = [None] * len(row["token_ids"]), [-1] * len(row["token_ids"])
        logprobs = nothing if row["logprobs"] is None else row["logprobs"]
        transcript = Transcript(
            token_ids=np.array(row["token_ids"], dtype=np.int64),
            action_mask=np.array(row["action_mask"], dtype=np.bool_),
            logprobs=np.array([np.nan if x is None else x for x in logprobs], dtype=np.float32),
            policy_version=np.array(
                unknown if row["policy_version"] is None else row["policy_version"], dtype=np.int64
            ),
            spans=tuple(Span(role=r, turn=t, start=s, end=e) for r, t, s, e in row["spans"]),
        )
        return cls(
            ticket=row["ticket"],
            group=row["group"],
            sample=row["sample"],
            record=record,
            transcript=transcript,
            num_counted=row.get("num_counted", 0),
            failure=row.get("failure", ""),
            generate_seconds=row.get("generate_seconds", 0.0),
        )


def _logprobs(transcript: Transcript) -> list[float | None] | None:
    if np.isnan(transcript.logprobs).all():
        return None
    return [None if np.isnan(x) else float(str(x)) for x in transcript.logprobs]


def _call(values: dict[str, Any]) -> CallRecord:
    start, end = values.get("span", (0, 0))
    return CallRecord(**{**values, "status": ToolStatus(values["status"]), "span": (start, end)})


def _reward_part(values: dict[str, Any]) -> RewardPart:
    # "weighted" is the product of the others, written for people; files written before it existed lack it.
    return RewardPart(**{name: value for name, value in values.items() if name != "weighted"})


def append_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Append to a file, one line each, flushed to disk before returning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a surrogate pair, which a model can write in a call's arguments, has no UTF-8; this is JSON's own spelling.
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(trajectory.to_json() + "\n" for trajectory in trajectories)
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that was not written to its end, so that a run can append to the file again."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                file.truncate(start + found + 1)
                return
            end = start
        file.truncate(0)


def read_trajectories(path: Path, *, skip_torn: bool = False) -> Iterator[Trajectory]:
    """Every complete line of a file, compressed if it is called ``.gz``; a last line torn by a kill is left out.

    Args:
        skip_torn: pass over a line before the last that is no JSON, with a warning, where its episode can be played
            again.

    Raises:
        UsageError: the file is missing or damaged, or a line before the last is not a trajectory.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such trajectory file")
    for number, line in enumerate(_complete_lines(path), start=1):
        try:
            yield Trajectory.from_json(line)
        except (KeyError, TypeError, ValueError) as error:
            if skip_torn and isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
                _log.warning("%s:%d is torn and was left out", path, number)
                continue
            raise UsageError(f"{path}:{number}: not a trajectory ({error}); delete the line to go on") from error


def _complete_lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # what follows the last newline was being written when the process died
                    yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}); the file is damaged") from error
