"""The recorder: the only maker of trajectories.

An environment sees ids, never log-probabilities; an engine sees requests, never outcomes. The recorder joins the two
by (ticket, turn): whoever asks an agent for a turn calls :meth:`Recorder.add`, the feeder's ``on_end`` calls
:meth:`Recorder.finish`, and out comes a :class:`~retool_env.trajectory.Trajectory` whose log-probabilities belong to
exactly the ids that the environment holds. A mismatch is a bug of ours and stops the run.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from agents.base import Generation
from retool_env.episode import Episode
from retool_env.feeder import Ticket
from retool_env.outcome import ToolStatus
from retool_env.record import EpisodeRecord
from retool_env.trajectory import Trajectory
from retool_env.transcript import Transcript

__all__ = ["Recorder"]


class Recorder:
    """Collects generations and gives out finished trajectories. Thread-safe.

    Args:
        on_trajectory: called with every trajectory in the thread that finished the episode; without it they are kept
            until :meth:`drain`.
    """

    def __init__(self, on_trajectory: Callable[[Trajectory], None] | None = None) -> None:
        self._on_trajectory = on_trajectory
        self._turns: dict[int, list[Generation]] = defaultdict(list)
        self._failures: dict[int, str] = {}
        self._finished: dict[int, Trajectory] = {}
        self._lock = threading.Lock()

    def add(self, ticket: int, generation: Generation) -> Generation:
        """One turn of one episode, in the order in which the turns were taken.

        Returns:
            What the environment is to be given. Nobody who records a turn has cancelled it, so an ``abort`` is the
            agent's failure: of it no id is left, since a part of a turn would be scored as a whole one.
        """
        if generation.finish_reason == "abort":
            generation = replace(Generation.aborted(), seconds=generation.seconds)
        with self._lock:
            self._turns[ticket].append(generation)
        return generation

    def explain(self, ticket: int, why: str) -> None:
        """What the engine said when it failed in this episode, which its outcome does not tell."""
        with self._lock:
            self._failures[ticket] = why

    def finish(self, ticket: Ticket, episode: Episode, record: EpisodeRecord) -> None:
        """The episode ended; join what the environment and the policy know of it."""
        with self._lock:
            turns = self._turns.pop(ticket.index, [])
            why = self._failures.pop(ticket.index, "")
        written = [turn for turn in turns if len(turn.token_ids)]
        trajectory = Trajectory(
            ticket=ticket.index,
            group=ticket.group,
            sample=ticket.sample,
            record=record,
            transcript=_join(episode, written),
            num_counted=sum(turn.num_counted for turn in written) if all(t.num_counted for t in written) else 0,
            failure=(why or _outage(record)) if record.outcome.failed else "",
            generate_seconds=sum(turn.seconds for turn in turns),
        )
        if self._on_trajectory is not None:
            self._on_trajectory(trajectory)
            return
        with self._lock:
            self._finished[ticket.index] = trajectory

    def drain(self) -> list[Trajectory]:
        """All finished trajectories, in ticket order."""
        with self._lock:
            finished, self._finished = self._finished, {}
        return [finished[ticket] for ticket in sorted(finished)]


def _outage(record: EpisodeRecord) -> str:
    """What the tool said that failed, if it was one."""
    return next((call.text for call in record.calls if call.status is ToolStatus.OUTAGE), "")


def _join(episode: Episode, turns: list[Generation]) -> Transcript:
    token_ids = np.array(episode.token_ids, dtype=np.int64)
    logprobs = np.full(len(token_ids), np.nan, dtype=np.float32)
    versions = np.full(len(token_ids), -1, dtype=np.int64)
    spans = [span for span in episode.spans if span.role == "assistant"]
    assert len(spans) == len(turns), f"{len(spans)} turns in the episode, {len(turns)} generations recorded"
    for span, turn in zip(spans, turns, strict=True):
        assert np.array_equal(token_ids[span.start : span.end], turn.token_ids), "episode and engine differ in ids"
        logprobs[span.start : span.end] = turn.logprobs
        versions[span.start : span.end] = turn.policy_version
    return Transcript(
        token_ids=token_ids,
        action_mask=np.array(episode.action_mask, dtype=np.bool_),
        logprobs=logprobs,
        policy_version=versions,
        spans=tuple(episode.spans),
    )
