"""Something done at several servers at once, and a session of weight updates around pieces of a model.

What goes wrong comes back by server; one server's failure does not hold the others up. How a piece travels is the
transport's part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agents.sglang.server import RefusedError, SGLangServer
from algos.sync.wire import Named
from retool_env.errors import EngineError

__all__ = ["Failures", "on_all", "send_pieces"]

Failures = dict[SGLangServer, EngineError]
T = TypeVar("T")
_log = logging.getLogger(__name__)


def on_all(
    servers: Sequence[SGLangServer], action: Callable[[SGLangServer], T]
) -> tuple[dict[SGLangServer, T], Failures]:
    """``action`` at every server at once: what it gave, and what went wrong, by server."""
    done: dict[SGLangServer, T] = {}
    failures: Failures = {}
    if not servers:
        return done, failures
    with ThreadPoolExecutor(len(servers)) as pool:
        waiting = {server: pool.submit(action, server) for server in servers}
    for server, future in waiting.items():
        error = future.exception()
        if error is None:
            done[server] = future.result()
        elif isinstance(error, EngineError):
            failures[server] = error
        else:
            raise error
    return done, failures


def send_pieces(
    pieces: Iterator[list[Named]],
    name: str,
    servers: Sequence[SGLangServer],
    send: Callable[[list[Named], str, Sequence[SGLangServer]], Failures],
) -> Failures:
    """A session of updates around ``send`` of every piece. A server that failed gets no further piece.

    Until the last piece has arrived the weights have a name that nobody asks for, so a server that got only some of
    them is not taken for one that has them. Sessions are closed whatever happens: a server refuses a new one, and with
    it all later weights, while one is open.
    """
    partial = f"{name}-incomplete"
    begun, failures = on_all(servers, lambda server: _begin_update(server, partial))
    try:
        for piece in pieces:  # to the end, whatever fails: gathering needs all ranks
            able = [server for server in servers if server not in failures]
            if able:
                failures |= send(piece, partial, able)
    finally:
        _, open_still = on_all(list(begun), SGLangServer.end_update)
    failures = open_still | failures
    able = [server for server in servers if server not in failures]
    return failures | on_all(able, lambda server: _complete(server, name))[1]


def _begin_update(server: SGLangServer, name: str) -> None:
    server.set_weight_version(name)
    try:
        server.begin_update()
    except RefusedError as error:
        _log.warning("%s; closing the session, which a trainer that died has left open", error)
        server.end_update()
        server.begin_update()


def _complete(server: SGLangServer, name: str) -> None:
    server.flush_cache()
    server.set_weight_version(name)
