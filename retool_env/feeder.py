"""Tickets: which problem is played when, and with which seeds.

Every episode of a run is one ticket. Ticket ``i`` belongs to group ``i // group_size`` (the samples of one problem,
GRPO's unit); problem and seeds are derived from the index alone, so whoever holds ticket 4711 plays the same episode,
in this process or another, today or after a resume. Environments are numbered slots: slot ``s`` of ``n`` takes tickets
``s, s+n, s+2n, ...``, which makes the assignment independent of who is quick.

Not handled here: curricula and mixtures (a source may be one), and groups that are given up half-way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from retool_env.episode import Episode
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from retool_env.seeding import derive

__all__ = ["Feeder", "ProblemSource", "Ticket"]


class ProblemSource(Protocol):
    """A sequence of problems. ``problem(i)`` is a pure function of ``i``; ``size`` is ``None`` when it never ends."""

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
        shuffle: see ``source``.
        skip: tickets that are done already, when a run goes on.
        on_end: called in the environment's thread with every finished episode.
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
        on_end: OnEnd = _ignore,
    ) -> None:
        self.source = source
        self.seed = seed
        self.group_size = group_size
        self.first = first
        self.num_tickets = num_tickets
        self.shuffle = shuffle
        self.skip = frozenset(skip)
        self.on_end = on_end
        self._orders: dict[int, list[int]] = {}
        self._lock = threading.Lock()

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

    def slot_of(self, index: int, num_slots: int) -> int:
        """The slot that plays ticket ``index``."""
        return (index - self.first) % num_slots

    def slot(self, slot: int, num_slots: int) -> Iterator[Ticket]:
        """The tickets of one slot, in order."""
        index = self.first + slot
        while self.num_tickets is None or index < self.num_tickets:
            if index not in self.skip:
                yield self.ticket(index)
            index += num_slots

    def _position(self, group: int) -> int:
        size = self.source.size
        if size is None:
            return group
        epoch, position = divmod(group, size)
        if not self.shuffle:
            return position
        with self._lock:
            if epoch not in self._orders:
                self._orders = {epoch: self._permutation(epoch, size), **dict(list(self._orders.items())[:1])}
            return self._orders[epoch][position]

    def _permutation(self, epoch: int, size: int) -> list[int]:
        return sorted(range(size), key=lambda i: derive(self.seed, "order", epoch, i))
