"""Episodes as lines, and a file of lines that only grows, in which a line is whole or not there.

Contract: a line is in the kernel's hands when :meth:`Lines.append` returns, which a killed process cannot undo; of one
that could not be written to its end (the disk is full) nothing is left. What a kill tore is cut off when the file is
opened again. Left out: what a power failure leaves before :meth:`Lines.close`, which forces the lines to the disk.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.record import EpisodeRecord
from retool_env.trajectory import Trajectory, drop_torn_line
from retool_env.transcript import Transcript

__all__ = ["Lines", "as_line"]


class Lines:
    """The file at ``path``, made if it is not there. Nothing is buffered: a buffer would be written at some later time.

    Raises:
        UsageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            drop_torn_line(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written ({error.strerror})") from error

    def append(self, line: str) -> None:
        """One line; half a surrogate pair, which has no UTF-8, is written in JSON's own spelling.

        Raises:
            UsageError: it could not be written, and is not there.
        """
        end = self._file.seek(0, os.SEEK_END)
        rest = (line + "\n").encode("utf-8", errors="backslashreplace")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(end)
            if not isinstance(error, OSError):
                raise
            raise UsageError(
                f"{str(self._path)!r} cannot be written ({error.strerror}); make room, and the same command goes on"
            ) from error

    def close(self) -> None:
        """Force what was written to the disk; idempotent."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def as_line(trajectory: Trajectory) -> tuple[Trajectory, str]:
    """An episode as it is kept, and as a line: where JSON has no words for it, a failure that says so.

    An infinite number is enough: the log-probability of a token that an engine calls impossible, and has sampled.
    """
    try:
        return trajectory, trajectory.to_json()
    except (TypeError, ValueError, RecursionError) as error:
        failed = _failure(trajectory, f"the episode cannot be written as JSON ({error})")
        return failed, failed.to_json()


def _failure(trajectory: Trajectory, why: str) -> Trajectory:
    """What can be written of any episode: what was asked."""
    problem = trajectory.record.problem.model_copy(update={"tools_kwargs": {}})
    record = EpisodeRecord(
        problem=problem, outcome=Outcome.CANCELLED, turns=(), calls=(), verdict=None, num_action_tokens=0
    )
    transcript = _prompt(trajectory.transcript)
    return replace(trajectory, record=record, transcript=transcript, num_counted=0, failure=why, generate_seconds=0.0)


def _prompt(transcript: Transcript) -> Transcript:
    end = transcript.prompt_length
    return Transcript(
        token_ids=transcript.token_ids[:end],
        action_mask=transcript.action_mask[:end],
        logprobs=transcript.logprobs[:end],
        policy_version=transcript.policy_version[:end],
        spans=transcript.spans[:1],
    )
