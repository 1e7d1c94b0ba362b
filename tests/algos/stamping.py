"""An engine without a model: it writes texts, one id at a time, and stamps each id with the version it has then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from agents.base import Generation, Request
from retool_env.errors import EngineError
from retool_env.seeding import derive
from retool_env.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
# A malformed call costs a turn and no sandbox; every problem's answer is 1.
TURNS = ("<code></code>", r"\boxed{1}", r"\boxed{2}")


class StampingEngine:
    """Thread-safe, with everything that training asks of an engine.

    Args:
        seed: of texts, speeds and failures; an episode is the same whenever it is played.
        mean_seconds: of one turn.
        failures: share of turns that fail.
        slow: tickets whose first turn takes until :attr:`release` is set.
    """

    def __init__(
        self, *, seed: int = 0, mean_seconds: float = 0.0, failures: float = 0.0, slow: frozenset[int] = frozenset()
    ) -> None:
        self._seed, self._mean_seconds, self._failures, self._slow = seed, mean_seconds, failures, slow
        self.release = threading.Event()
        self.begun: set[int] = set()
        self._version = 0
        self._sampling = threading.RLock()  # held while an id is sampled, and by whoever paused

    @property
    def policy_version(self) -> int:
        return self._version

    @contextmanager
    def paused(self) -> Iterator[None]:
        with self._sampling:
            yield

    def set_version(self, version: int) -> None:
        self._version = version

    def close(self) -> None:
        self.release.set()

    def act(self, request: Request) -> Generation:
        rng = np.random.default_rng(derive(self._seed, "stamp", request.session, request.turn) % 2**32)
        self.begun.add(request.session)
        if rng.random() < self._failures:
            raise EngineError("injected")
        text = TURNS[rng.integers(3)] if request.turn < 2 else TURNS[1]
        ids = TOKENIZER.encode(text) + ([] if text == TURNS[0] else [TOKENIZER.eos_id])
        pause = rng.exponential(self._mean_seconds) / len(ids) if self._mean_seconds else 0.0
        versions = []
        for place in range(len(ids)):
            with self._sampling:
                versions.append(self._version)
            if place == 0 and request.turn == 0 and request.session in self._slow:
                self.release.wait(60)
            if request.cancel is not None and request.cancel.cancelled:
                return Generation.aborted()
            time.sleep(pause)
        return Generation(
            token_ids=np.array(ids, dtype=np.int64),
            logprobs=np.full(len(ids), -1.0, dtype=np.float32),
            finish_reason="stop",
            policy_version=np.array(versions, dtype=np.int64),
        )


class BatchedStampingEngine(StampingEngine):
    """The same for lock-step."""

    def act_many(self, requests: Sequence[Request]) -> list[Generation]:
        return [self.act(request) for request in requests]
