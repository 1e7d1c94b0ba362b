"""Who may run now: a fixed number of places, a bounded queue, and turns that go round between keys.

One caller with a thousand programs must not make another one with a single program wait for all of them: the queue is
first-in first-out within a key, and a free place goes to the key whose turn it is. A caller that is cancelled leaves
the queue at once; closing sends everybody away.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import Literal

from retool_env.sandbox.base import Cancel

__all__ = ["Admission", "Ticket"]

Ticket = Literal["waiting", "admitted", "busy", "cancelled", "closed"]


class _Waiter:
    def __init__(self) -> None:
        self.wake = threading.Event()
        self.ticket: Ticket = "waiting"


class Admission:
    """Places for programs. Thread-safe.

    Args:
        places: how many may run at once.
        most_waiting: how many may wait beyond that before a newcomer is turned away as ``busy``.
    """

    def __init__(self, *, places: int, most_waiting: int) -> None:
        self._lock = threading.Lock()
        self._free = places
        self._places = places
        self._most_waiting = most_waiting
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def running(self) -> int:
        return self._places - self._free

    def enter(self, key: str, cancel: Cancel | None) -> tuple[Ticket, float]:
        """Wait for a place; what came of it and the seconds it took. After ``admitted``, :meth:`leave`."""
        waiter = _Waiter()
        ticket = self._queue(key, waiter)
        if ticket != "waiting":
            return ticket, 0.0
        start = time.monotonic()

        def give_up() -> None:
            self._remove(key, waiter, "cancelled")

        if cancel is not None:
            cancel.add(give_up)
        waiter.wake.wait()
        if cancel is not None:
            cancel.remove(give_up)
        return waiter.ticket, time.monotonic() - start

    def _queue(self, key: str, waiter: _Waiter) -> Ticket:
        with self._lock:
            if self._closed:
                return "closed"
            if self._free:
                self._free -= 1
                return "admitted"
            if self._waiting >= self._most_waiting:
                return "busy"
            self._queues.setdefault(key, deque()).append(waiter)
            self._waiting += 1
            return "waiting"

    def _remove(self, key: str, waiter: _Waiter, why: Ticket) -> None:
        with self._lock:
            queue = self._queues.get(key)
            if queue is None or waiter not in queue:
                return
            queue.remove(waiter)
            if not queue:
                del self._queues[key]
            self._dismiss(waiter, why)

    def _dismiss(self, waiter: _Waiter, ticket: Ticket) -> None:
        self._waiting -= 1
        waiter.ticket = ticket
        waiter.wake.set()

    def leave(self) -> None:
        """Give the place to whose turn it is."""
        with self._lock:
            if not self._queues:
                self._free += 1
                return
            key, queue = self._queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._queues[key] = queue
            self._dismiss(waiter, "admitted")

    def close(self) -> None:
        """Send everybody in the queue away, and every newcomer."""
        with self._lock:
            self._closed = True
            for queue in self._queues.values():
                for waiter in queue:
                    self._dismiss(waiter, "closed")
            self._queues.clear()
