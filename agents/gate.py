"""The gate: which episodes may begin, given the version of the policy.

Environment threads run free: when an episode ends, the next one is reset at once. Ticket ``i`` belongs to training
step ``i // tickets_per_step`` and is admitted while that is at most ``version + staleness``. With staleness 0 every
sample of a step comes from the one version that the step trains (on-policy); with ``s`` above 0 the episodes of the
next ``s`` steps begin before their step's update.

A step that needs more than its share (dynamic sampling) admits more tickets, which moves those of all later steps.

The gate bounds memory too. A step takes what was admitted for it and raises the version by one, so at any moment at
most ``(1 + staleness) * tickets_per_step`` admitted tickets are being played or wait for the trainer.

Waiting here rather than in ``reset`` matters: TorchRL resets before it delivers the finished episode.
"""

from __future__ import annotations

import threading

from retool_env.errors import EngineError

__all__ = ["Gate", "Stopped"]


class Stopped(EngineError):
    """The rollout was closed while an episode waited."""

    def __init__(self) -> None:
        super().__init__("the rollout was stopped")


class Gate:
    """Admits tickets by number. Thread-safe; closed to all before the first :meth:`set_version`.

    Args:
        tickets_per_step: tickets of one training step.
        staleness: how many steps ahead of the version a ticket may be.
        num_tickets: tickets of the whole run beside the further ones; none are admitted behind. ``None`` for no end.
    """

    def __init__(self, *, tickets_per_step: int, staleness: int = 0, num_tickets: int | None = None) -> None:
        self._tickets_per_step, self._staleness, self._num_tickets = tickets_per_step, staleness, num_tickets
        self._limit = 0
        self._extra = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def max_open(self) -> int:
        """Admitted tickets that can be unfinished or untaken at any moment."""
        return (1 + self._staleness) * self._tickets_per_step

    def is_open(self, ticket: int) -> bool:
        """The ticket may begin, or has begun: an admitted ticket stays admitted."""
        return ticket < self._limit

    def wait(self, ticket: int) -> None:
        """Return when the ticket is admitted.

        Raises:
            Stopped: the gate was closed, before or meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.is_open(ticket))
            if self._closed:
                raise Stopped

    @property
    def extra(self) -> int:
        """Tickets that were admitted by :meth:`admit_more`, so far."""
        return self._extra

    def set_version(self, version: int) -> None:
        """The policy was updated ``version`` times: admit what that allows, all at once."""
        limit = (version + 1 + self._staleness) * self._tickets_per_step
        with self._changed:
            self._limit = self._extra + (limit if self._num_tickets is None else min(limit, self._num_tickets))
            self._changed.notify_all()

    def admit_more(self, num_tickets: int) -> None:
        """Admit further tickets under the version that is."""
        with self._changed:
            self._extra += num_tickets
            self._limit += num_tickets if self._limit else 0
            self._changed.notify_all()

    def close(self) -> None:
        """Wake everyone with :class:`Stopped`; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
