"""An engine on SGLang servers: one ``/generate`` per turn, by ids, with what a trainer has to know about every id.

**Ids are the truth.** The context goes out as ids and the sampled ids come back; text is never encoded. Ids are checked
against the vocabulary first, because one outside of it kills a server on CPU.

**Log-probabilities** are of ``softmax(logits / temperature)`` over the whole vocabulary (of the plain softmax for
temperature 0). Under top-k and top-p they are *not* renormalised over what could be drawn: exact importance ratios need
``top_p=1`` and ``top_k=0``.

**A turn may come in pieces.** A server that ends a request for reasons of its own (a pause of mode ``abort``, an update
that aborts) gives back what it has; the request goes on from there. So every id has the version of the weights it was
sampled from: a weight version that is a number is that number, any other name the version this agent was made with.

**Outages** (no connection, a broken one, 502-504, no answer in time) are tried again, elsewhere where there is an
elsewhere; what the dead server had sampled is lost. A refusal is never repeated.

Left out: starting servers, and moving weights to them; :class:`~agents.sglang.server.SGLangServer` has the endpoints.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, get_args

from agents.base import Generation, Request, check_request
from agents.sglang.aborting import aborting
from agents.sglang.fleet import Fleet, Restore
from agents.sglang.server import OutageError, RefusedError, SGLangServer
from agents.sglang.turn import Turn
from agents.sglang.wire import GenerateReply, GenerateRequest, PauseMode
from retool_env.errors import EngineError, UsageError, did_you_mean
from retool_env.sandbox import Cancel
from retool_env.tokenizer import Tokenizer

__all__ = ["SGLangAgent"]

RESERVED: Final = 2
"""Positions of its context that SGLang keeps free: asked for more, it samples less than the budget."""

_log = logging.getLogger(__name__)


class SGLangAgent:
    """Samples from the model that all of ``urls`` serve. Implements :class:`~agents.base.Engine`.

    Args:
        urls: servers, or one router.
        tokenizer: of the served model: the size of the vocabulary, the end-of-turn id, and how stop strings are found.
        workers: behind a router, the servers themselves, for what a router does not pass on: pause and version.
        api_key: of ``--api-key``.
        version: of the weights that the servers have now.
        pause_mode: how :meth:`paused` pauses; see :meth:`SGLangServer.pause`.
        context_length: most tokens of prompt and continuation; asked of a server when not given.
        seconds: after which a turn without an answer counts as lost.
        patience: seconds for which a turn waits for any server at all, pauses apart.
        max_attempts: of one turn, at outages.
        restore: gives a server that was restarted the weights of today; without it such a server stays out of use.

    Raises:
        UsageError: no URL, a bad one, or no such mode.
    """

    def __init__(
        self,
        urls: Sequence[str],
        tokenizer: Tokenizer,
        *,
        workers: Sequence[str] = (),
        api_key: str | None = None,
        version: int = 0,
        pause_mode: PauseMode = "retract",
        context_length: int | None = None,
        seconds: float = 900.0,
        patience: float = 300.0,
        max_attempts: int = 5,
        restore: Restore | None = None,
    ) -> None:
        if not urls:
            raise UsageError("agent.url is not set; give the address of an SGLang server, as http://127.0.0.1:30000")
        if pause_mode not in get_args(PauseMode):
            raise UsageError(f"pause_mode={pause_mode!r}{did_you_mean(str(pause_mode), get_args(PauseMode))}")
        self.tokenizer = tokenizer
        servers = [SGLangServer(url, api_key=api_key) for url in dict.fromkeys(urls)]
        self._workers = [SGLangServer(url, api_key=api_key) for url in dict.fromkeys(workers)]
        self._servers = servers
        self._fleet = Fleet(servers, restore=restore, patience=patience)
        self._pause_mode = pause_mode
        self._context_length = context_length
        self._asked_context = context_length is not None
        self._seconds = seconds
        self._max_attempts = max_attempts
        self._first_version = self._version = version

    @property
    def policy_version(self) -> int:
        return self._version

    @property
    def servers(self) -> list[SGLangServer]:
        """Every server that holds weights, for whoever synchronises them."""
        return self._workers or self._servers

    @property
    def servers_in_use(self) -> list[SGLangServer]:
        """Those of :attr:`servers` that are not known to be down or out of date."""
        return self._workers or self._fleet.in_use()

    @property
    def restore(self) -> Restore | None:
        """See the class."""
        return self._fleet.restore

    @restore.setter
    def restore(self, restore: Restore | None) -> None:
        self._fleet.restore = restore

    def act(self, request: Request) -> Generation:
        """One turn; see :class:`~agents.base.Agent`.

        Raises:
            UsageError: ids outside of the vocabulary, or more tokens than the server's context.
            EngineError: no server could serve it.
        """
        self._check(request)
        cancel = request.cancel or Cancel()
        turn = Turn(request, self.tokenizer, number=self._number)
        failures = 0
        while not turn.finish_reason and not cancel.cancelled:
            try:
                if not self._go_on(turn, cancel):
                    failures += 1
            except OutageError as error:
                failures += 1
                if failures >= self._max_attempts:
                    raise EngineError(f"{error} (given up after {failures} attempts)") from error
            if failures >= self._max_attempts:
                raise EngineError(f"the request was aborted {failures} times without sampling anything")
        return turn.generation()

    def context_length(self) -> int | None:
        """The most tokens of prompt and continuation; ``None`` when no server says.

        Raises:
            EngineError: no server answers.
        """
        if not self._asked_context:
            known = [length - RESERVED for server in self._servers if (length := server.context_length()) is not None]
            self._context_length, self._asked_context = min(known, default=None), True
        return self._context_length

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is sampled inside the block; new requests wait in this client.

        A server that cannot be paused is taken out of use. Every server that can be reached goes on behind the block,
        however it ends.
        """
        with self._fleet.held():
            try:
                self._everywhere(lambda server: server.pause(self._pause_mode))
                yield
            finally:
                for server in self._everywhere(lambda server: server.resume()):
                    self._fleet.resume_later(server)

    def set_version(self, version: int) -> None:
        """The servers' weights are version ``version`` now.

        A server that does not call them so is told, and forgets what it computed with the old ones.
        """
        name = str(version)
        self._everywhere(lambda server: _call_weights(server, name))
        self.adopt(version)

    def adopt(self, version: int) -> None:
        """:meth:`set_version` for whoever has told the servers: an update that names the weights has done so."""
        if not self._workers:  # behind a router nobody can say which server answers
            self._fleet.rename(str(version))
        self._version = version

    def exclude(self, server: SGLangServer, error: EngineError) -> None:
        """Keep ``server`` out of use until it is found ready, with the weights that it should have; behind a router,
        only log it."""
        if self._workers:
            _log.error("%s: %s", server.url, error)
        else:
            self._fleet.failed(server, error)

    def close(self) -> None:
        self._fleet.close()
        for server in [*self._servers, *self._workers]:
            server.close()

    def _check(self, request: Request) -> None:
        check_request(request, self.tokenizer.vocab_size)
        limit = self._known_context()
        needed = len(request.token_ids) + request.budget
        if limit is not None and needed > limit:
            raise UsageError(
                f"prompt and budget have {needed} tokens, and {limit} fit into the server's context; "
                f"set env.max_context_tokens={limit} or less, or start the server with a larger --context-length"
            )

    def _known_context(self) -> int | None:
        """The limit if a server says it; a server that is down is waited for later, where there is patience for it."""
        try:
            return self.context_length()
        except OutageError:
            return None

    def _go_on(self, turn: Turn, cancel: Cancel) -> bool:
        """Ask for what the turn still lacks; whether anything came of it. Raises :class:`OutageError` when the server
        failed or has lost its weights; it is out of use then."""
        with self._fleet.lease(turn.request.session, cancel) as server:
            if server is None:
                return True
            before, version = len(turn.ids), self._version
            try:
                reply = self._ask(server, turn, cancel)
                self._check_version(server, reply, version)
            except OutageError as error:
                self._fleet.failed(server, error)
                raise
            self._fleet.worked(server)
            if reply is not None:
                turn.add(reply)
            return len(turn.ids) > before or bool(turn.finish_reason) or cancel.cancelled

    def _ask(self, server: SGLangServer, turn: Turn, cancel: Cancel) -> GenerateReply | None:
        """One attempt; ``None`` when it was cancelled and the server did not react."""
        request = turn.request
        order = GenerateRequest(
            rid=uuid.uuid4().hex,
            input_ids=[*request.token_ids.tolist(), *turn.ids],
            max_new_tokens=request.budget - len(turn.ids),
            stop=request.stop,
            stop_token_ids=(self.tokenizer.eos_id,),
            sampling=request.sampling,
            seed=request.seed,
        )
        drop = Cancel()
        try:
            with aborting(self._workers or [server], order.rid, cancel, drop):
                return server.generate(order, seconds=self._seconds, cancel=drop)
        except RefusedError as error:
            if error.status == 400:
                raise UsageError(f"{server.url} cannot serve this request: {error.reason}") from error
            raise
        except EngineError:
            if drop.cancelled:
                return None
            raise

    def _check_version(self, server: SGLangServer, reply: GenerateReply | None, version: int) -> None:
        """A server that was restarted in between samples from weights older than those that it had: not with us."""
        names = {name: self._number(name) for name in reply.version_names} if reply else {}
        for name, number in names.items():
            if number < version:
                raise OutageError(f"{server.url} has weights {name!r}, older than version {version}: was it restarted?")

    def _number(self, name: str | None) -> int:
        """The version that weights of this name are."""
        if name is None:
            return self._version
        return int(name) if name.isdecimal() else self._first_version

    def _everywhere(self, action: Callable[[SGLangServer], None]) -> list[SGLangServer]:
        """Do it at every server at once, those that are out of use included: they may be back.

        Returns those that failed, which are out of use now; the rest is not held up by them.
        """
        with ThreadPoolExecutor(max_workers=len(self.servers)) as pool:
            failures = list(pool.map(lambda server: _failure(action, server), self.servers))
        failed = [(server, failure) for server, failure in zip(self.servers, failures, strict=True) if failure]
        for server, failure in failed:
            self.exclude(server, failure)
        return [server for server, _ in failed]


def _failure(action: Callable[[SGLangServer], None], server: SGLangServer) -> EngineError | None:
    """What went wrong, after a second attempt at an outage: an idle connection may have been closed."""
    try:
        try:
            action(server)
        except OutageError:
            action(server)
    except EngineError as error:
        return error
    return None


def _call_weights(server: SGLangServer, name: str) -> None:
    if server.model_info().weight_version != name:
        server.set_weight_version(name)
        server.flush_cache()
