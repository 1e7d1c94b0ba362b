"""Which of several servers a request goes to, and what happens when one of them dies.

The turns of a session go to the server that holds its KV cache; a new session goes to the server with the fewest
requests of this client in flight. A server that failed gets no requests until a probe finds it ready again; its
sessions move. Probes run in threads of their own, at growing intervals, so no request waits for a dead server while
another one lives.

A server that was restarted has the weights it was started with. Once the weights have a name (:meth:`Fleet.rename`), a
server that comes back under another name is handed to ``restore``, or stays out.

While the fleet is held (weights are being changed) nothing is given out and nobody returns.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from agents.sglang.server import SGLangServer
from retool_env.errors import EngineError, UsageError
from retool_env.sandbox import Cancel

__all__ = ["Fleet", "Restore"]

Restore = Callable[[SGLangServer], None]
"""Gives a server that came back the weights of today, and their name. May raise :class:`EngineError`."""

MAX_SESSIONS: Final = 65536
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Member:
    """A server and what is known of it; guarded by the fleet's lock."""

    server: SGLangServer
    in_flight: int = 0
    up: bool = True
    probing: bool = False
    failures: int = 0
    retry_at: float = 0.0
    trouble: str = ""
    paused: bool = False


class Fleet:
    """Gives out servers. Thread-safe.

    Args:
        servers: at least one.
        restore: brings a server up to date that comes back with other weights.
        patience: seconds for which a request waits for any server at all.
    """

    def __init__(self, servers: Sequence[SGLangServer], *, restore: Restore | None, patience: float) -> None:
        self._members = [_Member(server) for server in servers]
        self.restore = restore
        self._patience = patience
        self._changed = threading.Condition()
        self._sessions: OrderedDict[int, _Member] = OrderedDict()
        self._weights: str | None = None
        self._held = 0
        self._closed = False

    @contextmanager
    def lease(self, session: int, cancel: Cancel) -> Iterator[SGLangServer | None]:
        """A server for one request of ``session``; ``None`` when cancelled while there was none.

        Raises:
            EngineError: no server answered for ``patience`` seconds, or the fleet was closed.
        """
        member = self._wait_for_member(session, cancel)
        if member is None:
            yield None
            return
        try:
            yield member.server
        finally:
            with self._changed:
                member.in_flight -= 1

    def failed(self, server: SGLangServer, error: EngineError) -> None:
        """No more requests to ``server`` before a probe finds it ready."""
        with self._changed:
            member = self._member_of(server)
            if member.up:
                _log.warning("%s is out of use: %s", server.url, error)
            member.up = False
            self._put_off(member, str(error))

    def worked(self, server: SGLangServer) -> None:
        """``server`` answered: its next failure is its first."""
        with self._changed:
            self._member_of(server).failures = 0

    def resume_later(self, server: SGLangServer) -> None:
        """``server`` was paused by us and could not be told to go on: tell it when it answers again."""
        with self._changed:
            for member in self._members:
                member.paused |= member.server is server

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside the block requests wait here, and servers that come back do too."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def rename(self, weights: str) -> None:
        """The weights of all servers are called so from now on."""
        with self._changed:
            self._weights = weights

    def in_use(self) -> list[SGLangServer]:
        """The servers that get requests."""
        with self._changed:
            return [member.server for member in self._members if member.up]

    def close(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for_member(self, session: int, cancel: Cancel) -> _Member | None:
        cancel.add(self._wake)
        try:
            with self._changed:
                return self._wait(session, cancel)
        finally:
            cancel.remove(self._wake)

    def _wait(self, session: int, cancel: Cancel) -> _Member | None:
        deadline = time.monotonic() + self._patience
        while True:
            if self._closed:
                raise EngineError("the client was closed")
            if cancel.cancelled:
                return None
            if self._held:
                self._changed.wait()
                deadline = time.monotonic() + self._patience
                continue
            self._probe_who_is_due()
            if member := self._choose(session):
                member.in_flight += 1
                return member
            if (left := deadline - time.monotonic()) <= 0:
                raise EngineError(f"no server answers: {'; '.join(m.trouble for m in self._members)}")
            self._changed.wait(min(left, 0.1))

    def _choose(self, session: int) -> _Member | None:
        """The session's own server, else the least loaded one, which becomes its own."""
        home = self._sessions.get(session)
        if home is None or not home.up:
            able = [member for member in self._members if member.up]
            if not able:
                return None
            # Among equals a random one: the order of the list would send every first request to the same server.
            home = min(able, key=lambda member: (member.in_flight, random.random()))
            self._sessions[session] = home
        self._sessions.move_to_end(session)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return home

    def _probe_who_is_due(self) -> None:
        now = time.monotonic()
        for member in self._members:
            if not member.up and not member.probing and member.retry_at <= now:
                member.probing = True
                threading.Thread(target=self._probe, args=(member,), name="sglang-probe", daemon=True).start()

    def _probe(self, member: _Member) -> None:
        try:
            trouble = self._examine(member)
        except (EngineError, UsageError) as error:
            trouble = str(error)
        with self._changed:
            member.probing = False
            if trouble or self._held:  # what was examined may be out of date when the hold ends
                self._put_off(member, trouble or "its weights are being changed")
            else:
                _log.warning("%s is in use again", member.server.url)
                member.up = True
            self._changed.notify_all()

    def _examine(self, member: _Member) -> str:
        """Why the server cannot be used; ``""`` when it can."""
        server = member.server
        if member.paused:
            server.resume()
            member.paused = False
        if not server.ready():
            return f"{server.url} is not ready"
        with self._changed:
            wanted = self._weights
        if wanted is None or (found := server.model_info().weight_version) == wanted:
            return ""
        if self.restore is None:
            return f"{server.url} came back with weights {found!r} instead of {wanted!r}; they have to be synchronised"
        self.restore(server)
        return ""

    def _put_off(self, member: _Member, trouble: str) -> None:
        """The first failure is looked into at once: a connection that had been idle may just have been closed."""
        pause = min(_FIRST_PAUSE * 2**member.failures, _LONGEST_PAUSE) if member.failures else 0.0
        member.failures += 1
        member.trouble = trouble
        member.retry_at = time.monotonic() + random.uniform(pause / 2, pause)

    def _member_of(self, server: SGLangServer) -> _Member:
        return next(member for member in self._members if member.server is server)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
