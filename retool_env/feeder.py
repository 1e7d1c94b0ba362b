"""Tickets: which problem is played when, and with which seeds.

Every episode of a run is one ticket. Ticket ``i`` belongs to group ``i // group_size`` (the samples of one problem,
GRPO's unit); problem and seeds are derived from the index alone, so whoever holds ticket 4711 plays the same episode,
in this process or another, today or after a resume. Environments are numbered slots: slot ``s`` of ``n`` takes tickets
``s, s+n, s+2n, ...``, which makes the assignment independent of who is quick; or, with ``shared``, the next ticket goes
to whoever is free, so that a long episode holds up no other.

So the state of an iteration is a number. :meth:`Feeder.state_dict` gives the first ticket that is not finished, with a
fingerprint of the source, because going on in a file that has changed would be another run without anybody noticing.

Not handled here: curricula and mixtures (a source may be one), and groups that are given up half-way.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from retool_env.seeding import derive

__all__ = ["Feeder", "FeederState", "OnEnd", "ProblemSource", "Ticket", "fingerprint", "shuffled"]

SAMPLE = 64


class ProblemSource(Protocol):
    """A sequence of problems. ``problem(i)`` is a pure function of ``i``; ``size`` is ``None`` when it never ends.

    So a source has no state to save. One whose order means something has an attribute ``ordered`` that is true.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int | None: ...

    def problem(self, index: int) -> Problem: ...


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One episode to play."""

    index: int
    group: int
    sample: int
    problem: Problem
    sampling_seed: int
    sandbox_seed: int


class FeederState(BaseModel):
    """Where an iteration is, and of what.

    Attributes:
        first: the first ticket that is not finished.
        finished: tickets behind it that are.
        source: fingerprint of the problems.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: NonNegativeInt
    finished: tuple[NonNegativeInt, ...] = ()
    seed: int
    group_size: int
    shuffle: bool
    source: str

    def is_finished(self, index: int) -> bool:
        """The episode of this ticket has ended."""
        return index < self.first or index in self.finished


OnEnd = Callable[[Ticket, Episode, EpisodeRecord], None]


def _ignore(ticket: Ticket, episode: Episode, record: EpisodeRecord) -> None:
    """The default listener."""


class Feeder:
    """Hands out tickets and takes finished episodes back.

    Args:
        source: where problems come from. A finite one is played in a new order in every pass when ``shuffle`` is
            set, in file order otherwise.
        seed: the run's seed.
        group_size: samples per problem.
        first: number of the first ticket, when a run goes on.
        num_tickets: stop at this number; ``None`` for an endless feeder.
        shuffle: see ``source``. The order of a curriculum is kept all the same.
        skip: tickets that are done already, when a run goes on.
        shared: all slots take from one row, instead of a row for each.
        on_end: called in the environment's thread with every finished episode.

    >>> from retool_env.sources import open_source
    >>> feeder = Feeder(open_source(size=10, split="heldout"), seed=1, group_size=4, num_tickets=8)
    >>> mine = list(feeder.slot(0, 2))  # of two slots the first
    >>> [(ticket.index, ticket.group, ticket.sample) for ticket in mine]
    [(0, 0, 0), (2, 0, 2), (4, 1, 0), (6, 1, 2)]
    """

    def __init__(
        self,
        source: ProblemSource,
        *,
        seed: int = 0,
        group_size: int = 1,
        first: int = 0,
        num_tickets: int | None = None,
        shuffle: bool = False,
        skip: Collection[int] = (),
        shared: bool = False,
        on_end: OnEnd = _ignore,
    ) -> None:
        self.source = source
        self.seed = seed
        self.group_size = group_size
        self.first = first
        self.num_tickets = num_tickets
        self.shuffle = shuffle
        self.skip = frozenset(skip)
        self.shared = shared
        self._listener = on_end
        self._lock = threading.Lock()
        self._restart()

    def on_end(self, ticket: Ticket, episode: Episode, record: EpisodeRecord) -> None:
        """Take a finished episode back, whatever became of it. Thread-safe."""
        self._listener(ticket, episode, record)
        # Behind the listener: a ticket that the state calls finished has reached whoever keeps the episodes.
        self.mark_finished(ticket.index)

    def mark_finished(self, index: int) -> None:
        """Ticket ``index`` was played, here or on another machine. Thread-safe."""
        with self._lock:
            self._finished.add(index)
            self._advance()

    def state_dict(self) -> dict[str, object]:
        """What :meth:`load_state_dict` needs to go on with the tickets that are not finished, as plain values."""
        with self._lock:
            first, finished = self._next, tuple(sorted(self._finished))
        return self._state(first=first, finished=finished).model_dump(mode="json")

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on where another feeder was. Slots that were begun before are not affected.

        Raises:
            UsageError: not a feeder's state, or one of other problems, another seed, group size or order.
        """
        try:
            loaded = FeederState.model_validate(state)
        except ValidationError as error:
            raise UsageError(f"not the state of a feeder ({error.errors()[0]['msg']}): {str(state)[:60]}") from error
        mine = self._state(first=loaded.first, finished=loaded.finished)
        changed = [name for name, value in mine if value != getattr(loaded, name)]
        if changed == ["source"]:
            raise UsageError(
                f"the problems of {self.source.name!r} are not those that the run began with; bring the old file back, "
                "or start a new run with another out=..."
            )
        if changed:
            raise UsageError(
                f"the stored state is of another run ({', '.join(changed)} differ); use the same problems and seed"
            )
        with self._lock:
            self.first, self.skip = loaded.first, frozenset(loaded.finished)
            self._restart()

    def _restart(self) -> None:
        self._next, self._finished = self.first, {index for index in self.skip if index >= self.first}
        self._row = iter(self._indices(self.first, 1))
        self._advance()

    def _advance(self) -> None:
        """Forget the finished tickets that have none unfinished before them."""
        while self._next in self._finished:
            self._finished.remove(self._next)
            self._next += 1

    def _state(self, *, first: int, finished: tuple[int, ...]) -> FeederState:
        return FeederState(
            first=first,
            finished=finished,
            seed=self.seed,
            group_size=self.group_size,
            shuffle=self.shuffle,
            source=self._fingerprint,
        )

    @functools.cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.source)

    def ticket(self, index: int) -> Ticket:
        """Ticket number ``index``, from 0."""
        group = index // self.group_size
        return Ticket(
            index=index,
            group=group,
            sample=index % self.group_size,
            problem=self.source.problem(self._position(group)),
            sampling_seed=self.sampling_seed(index),
            sandbox_seed=derive(self.seed, "sandbox", index) % 2**32,
        )

    def sampling_seed(self, index: int) -> int:
        """The seed of ticket ``index``'s random stream, without making the ticket."""
        return derive(self.seed, "sampling", index)

    def slot(self, slot: int, num_slots: int) -> Iterator[Ticket]:
        """The tickets of one slot, in order."""
        row = self._shared_row() if self.shared else self._indices(self.first + slot, num_slots)
        return map(self.ticket, row)

    def _indices(self, start: int, stride: int) -> Iterator[int]:
        for index in itertools.count(start, stride):
            if self.num_tickets is not None and index >= self.num_tickets:
                return
            if index not in self.skip:
                yield index

    def _shared_row(self) -> Iterator[int]:
        while True:
            with self._lock:  # a generator cannot be advanced by two threads at once
                index = next(self._row, None)
            if index is None:
                return
            yield index

    def _position(self, group: int) -> int:
        size = self.source.size
        if size is None:
            return group
        epoch, position = divmod(group, size)
        if not self.shuffle or getattr(self.source, "ordered", False):
            return position
        return shuffled(size, self.seed, epoch)[position]


@functools.lru_cache(maxsize=64)
def shuffled(size: int, seed: int, epoch: int) -> tuple[int, ...]:
    """``range(size)`` in the order of a pass; every pass and seed has its own."""
    return tuple(sorted(range(size), key=lambda i: derive(seed, "order", epoch, i)))


def fingerprint(source: ProblemSource) -> str:
    """A digest of what is asked: all problems of a finite source, the first few of an endless one."""
    digest = hashlib.blake2b(str(source.size).encode(), digest_size=16)
    for index in range(SAMPLE if source.size is None else source.size):
        digest.update(source.problem(index).model_dump_json().encode())
    return digest.hexdigest()
