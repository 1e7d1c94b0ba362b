"""The embedded engine as an agent: who may call it from where, and whose thread does the work.

``act`` comes from many threads. Somebody has to drive: :meth:`EmbeddedAgent.serve` drives in the thread that calls it;
``act_many`` does so until its own requests are done; and when nobody does, a thread of the engine's own, which starts
at the first ``act``. On CPU the first two are quicker: a second thread that calls torch brings a second team of OpenMP
threads, more than there are cores.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from agents.base import Generation, Request
from agents.embedded.batch import Batch
from agents.embedded.checks import check_fits, check_model
from agents.embedded.direct import DirectForward, supports
from agents.embedded.feed import Forward
from agents.embedded.generic import GenericForward
from agents.embedded.kv import KVShape
from agents.embedded.row import Row
from agents.embedded.stops import StopTable
from retool_env.errors import EngineError
from retool_env.tokenizer import Tokenizer

__all__ = ["EmbeddedAgent"]

_log = logging.getLogger(__name__)


class EmbeddedAgent:
    """Samples from ``model`` for many requests at a time.

    Args:
        model: a causal language model; used without gradients and without dropout.
        tokenizer: decodes what may hold a stop string, and knows the end-of-turn id.
        max_rows: requests that are worked on at a time; more wait for their turn.
        cache_tokens: tokens of KV cache kept for episodes that may go on; the oldest episodes go first.

    Raises:
        UsageError: the model's cache is not one of keys and values of every token.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, *, max_rows: int = 256, cache_tokens: int = 65536
    ) -> None:
        check_model(model)
        self.model = model
        self.tokenizer = tokenizer
        forward: Forward = DirectForward(model) if supports(model) else GenericForward(model)
        stops = StopTable(tokenizer, model.config.get_text_config().vocab_size)
        self._batch = Batch(forward, stops, KVShape.of(model), max_rows=max_rows, cache_tokens=cache_tokens)
        self._version = 0
        self._stale = False
        self._inbox: list[Row] = []
        self._in_flight: set[Row] = set()
        self._closed = False
        self._pauses = 0
        self._servers = 0  # threads in serve(); while there are any, the engine's own thread rests
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._stepping = threading.RLock()  # held during a step, and by whoever paused

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next id is sampled from."""
        return self._version

    def set_version(self, version: int) -> None:
        """Say that the weights changed; call it inside :meth:`paused`, or when nothing is in flight.

        Keys and values of the old weights are dropped. Requests in flight keep the ids that they have, and are read
        again with the new weights.
        """
        with self._changed:
            self._version, self._stale = version, True

    def act(self, request: Request) -> Generation:
        """One request; it joins what is running.

        Raises:
            EngineError: torch failed, or the engine was closed.
            UsageError: the request does not fit the model.
        """
        (row,) = self._submit([request])
        self._start_thread()
        row.done.wait()
        return row.result()

    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        """All requests, driven by this thread; they join at once and in the given order.

        When nothing else is in flight, the same calls give the same bits; calls for later turns, when those for the
        turns before were the same.
        """
        rows = self._submit(requests)
        self.serve(lambda: all(row.done.is_set() for row in rows))
        for row in rows:
            row.done.wait()  # at once, unless the engine is being closed
        return [row.result() for row in rows]

    def serve(self, done: Callable[[], bool]) -> None:
        """Drive the engine in this thread until ``done()``; whoever makes it true calls :meth:`poke`."""
        with self._changed:
            self._servers += 1
        try:
            while self._wait(done):
                self._step()
        finally:
            with self._changed:
                self._servers -= 1
                self._changed.notify_all()

    def poke(self) -> None:
        """Let :meth:`serve` look at its condition again."""
        with self._changed:
            self._changed.notify_all()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is sampled inside the block; requests in flight wait, also those that are cancelled meanwhile."""
        with self._changed:
            self._pauses += 1
        try:
            with self._stepping:
                yield
        finally:
            with self._changed:
                self._pauses -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End the engine's thread, fail what is in flight and free the caches; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._stepping:
            self._fail(EngineError("the engine was closed"))

    def _submit(self, requests: Sequence[Request]) -> list[Row]:
        for request in requests:
            check_fits(request, self.model)
        rows = [Row(request) for request in requests]
        with self._changed:
            if self._closed:
                raise EngineError("the engine was closed")
            self._inbox += rows
            self._in_flight.update(rows)
            self._changed.notify_all()
        return rows

    def _start_thread(self) -> None:
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._drive, name="embedded-engine", daemon=True)
                self._thread.start()

    def _drive(self) -> None:
        """The engine's own thread."""
        while self._wait(lambda: False, own=True):
            self._step()

    def _wait(self, done: Callable[[], bool], *, own: bool = False) -> bool:
        """Wait for work; False when there will be none for this thread."""

        def over() -> bool:
            return self._closed or done()

        def ready() -> bool:
            return bool(self._in_flight) and self._pauses == 0 and not (own and self._servers)

        with self._changed:
            self._changed.wait_for(lambda: over() or ready())
            return not over()

    def _step(self) -> None:
        with self._stepping, torch.inference_mode():
            try:
                finished = self._step_once()
            except BaseException as error:
                self._fail(error if isinstance(error, EngineError) else EngineError(f"{type(error).__name__}: {error}"))
                if not isinstance(error, RuntimeError):  # torch reports out-of-memory and device failures so
                    raise
                _log.exception("the engine failed")
                return
        self._end(finished)

    def _step_once(self) -> list[Row]:
        with self._changed:
            rows, self._inbox = self._inbox, []
            stale, self._stale = self._stale, False
            version = self._version
        if stale:
            self._batch.weights_changed()
        self._batch.add(rows)
        return self._batch.step(version)

    def _fail(self, error: EngineError) -> None:
        """End everything that is in flight with this error."""
        self._batch.clear()
        with self._changed:
            rows, self._inbox = list(self._in_flight), []
        for row in rows:
            row.error = error
        self._end(rows)

    def _end(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        for row in rows:
            row.done.set()
        with self._changed:
            self._in_flight.difference_update(rows)
            self._changed.notify_all()
