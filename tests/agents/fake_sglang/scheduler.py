"""The loop that samples: one id for every running request per step, with pauses, aborts, updates and a prefix cache."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.agents.fake_sglang.brain import Brain
from tests.agents.fake_sglang.job import Job, draw, log_softmax
from tests.agents.fake_sglang.request import Refused

_CACHE_ENTRIES = 64


class Scheduler:
    """Runs jobs in a thread of its own. ``lock`` guards everything that a job or a setting is."""

    def __init__(self, brain: Brain, *, max_running: int, step_seconds: float) -> None:
        self.brain = brain
        self.version = "default"
        self.mode = ""
        self.updating = False
        self.served = brain.path
        self.digests: list[tuple[int, int]] = []
        self.lock = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._stepping = False
        self._max_running, self._step_seconds = max_running, step_seconds
        self._cache: deque[np.ndarray] = deque(maxlen=_CACHE_ENTRIES)
        self._rng = np.random.default_rng()
        threading.Thread(target=self._loop, daemon=True).start()

    def submit(self, job: Job) -> None:
        with self.lock:
            if any(job.rid == other.rid for other in (*self.waiting, *self.running)):
                raise Refused(f"Duplicate request ID detected: {job.rid}")
            self.waiting.append(job)
            self.lock.notify_all()

    def abort(self, rid: str, *, everything: bool = False) -> None:
        """Ends the job ``rid``, if there is one, and with it every job whose rid begins so."""
        with self.lock:
            self.lock.wait_for(lambda: not self._stepping)
            if everything or any(job.rid == rid for job in (*self.running, *self.waiting)):
                self._abort("" if everything else rid)

    def pause(self, mode: str) -> None:
        with self.lock:
            self.mode = mode
            self.lock.wait_for(lambda: not self._stepping)
            if mode == "abort":
                self._abort("")
            elif mode == "retract":
                for job in reversed(self.running):
                    job.retractions += 1
                    self.waiting.appendleft(job)
                self.running.clear()

    def resume(self) -> None:
        with self.lock:
            self.mode = ""
            self.lock.notify_all()

    def flush(self, timeout: float) -> None:
        """At once, if need be in a pause with a queue; with a ``timeout`` as soon as there are no requests at all."""
        with self.lock:
            if timeout and not self.lock.wait_for(lambda: not self.running and not self.waiting, timeout):
                raise Refused("Timed out waiting for idle state.")
            if not self._flushable():
                raise Refused("Flush cache failed: there are running or queued requests")
            self._cache.clear()

    def update(self, change: Callable[[], None], body: dict[str, Any]) -> None:
        """New weights by ``change``; waits for running requests unless paused."""
        with self.lock:
            self.updating = True
            try:
                if body.get("abort_all_requests", False):
                    self.lock.wait_for(lambda: not self._stepping)
                    self._abort("")
                self.lock.wait_for(lambda: not self._stepping and (self.mode or not self.running))
                change()
                self.version = body.get("weight_version") or self.version
                if not body.get("flush_cache", True):
                    return
                if not self._flushable():
                    raise Refused("Weights were updated, but the cache was not flushed: requests are running")
                self._cache.clear()
            finally:
                self.updating = False
                self.lock.notify_all()

    def _flushable(self) -> bool:
        return not self.running and (not self.waiting or self.mode == "retract")

    def _abort(self, prefix: str) -> None:
        for job in [job for job in (*self.running, *self.waiting) if job.rid.startswith(prefix)]:
            queued = job in self.waiting
            (self.waiting if queued else self.running).remove(job)
            message = "Abort in waiting queue" if queued else "Aborted"
            self._end(job, {"type": "abort", "message": message, "status_code": None, "err_type": None})

    def _loop(self) -> None:
        while True:
            with self.lock:
                self.lock.wait_for(lambda: not self.mode and not self.updating and (self.waiting or self.running))
                self._admit()
                batch = list(self.running)
                self._stepping = bool(batch)
            if batch:
                self._step(batch)
            with self.lock:
                self._stepping = False
                self.lock.notify_all()
            time.sleep(self._step_seconds)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running:
            job = self.waiting.popleft()
            # What a real server does with such an id: the scheduler dies, and every connection with it.
            if max(job.input_ids) >= self.brain.vocab_size or min(job.input_ids) < 0:
                os._exit(1)
            if not job.started:
                self._start(job)
            self.running.append(job)
            if job.budget == 0:
                self.running.remove(job)
                self._end(job, {"type": "length", "length": 0})

    def _start(self, job: Job) -> None:
        job.started = True
        ids = np.array(job.input_ids)
        limit = len(ids) - 1 if job.logprob_start < 0 else min(len(ids) - 1, job.logprob_start)
        job.cached = min(max((_common(ids, row) for row in self._cache), default=0), limit)
        if job.logprob_start >= 0:
            rows = log_softmax(self.brain.all_logits(job.input_ids).astype(np.float64))
            scored = [(float(rows[k - 1, token]), token, None) for k, token in enumerate(job.input_ids) if k]
            behind = scored[job.logprob_start :]
            job.input_logprobs = [(None, job.input_ids[job.logprob_start], None), *behind]

    def _step(self, batch: list[Job]) -> None:
        logits = self.brain.logits([job.context for job in batch])
        drawn = [draw(row, job.params, self._rng) for job, row in zip(batch, logits, strict=True)]
        with self.lock:
            for job, (token, logprob) in zip(batch, drawn, strict=True):
                job.ids.append(token)
                job.logprobs.append(logprob)
                job.versions.append(self.version)
                if finish := self._finish(job, token):
                    self.running.remove(job)
                    self._end(job, finish)
                else:
                    job.on_change()

    def _finish(self, job: Job, token: int) -> dict[str, Any] | None:
        params, tokenizer = job.params, self.brain.tokenizer
        if not params.ignore_eos and (token == tokenizer.eos_id or token in (params.stop_token_ids or ())):
            return {"type": "stop", "matched": token}
        if matched := job.matched_stop(tokenizer):
            return {"type": "stop", "matched": matched}
        return {"type": "length", "length": job.budget} if len(job.ids) == job.budget else None

    def _end(self, job: Job, finish: dict[str, Any]) -> None:
        job.finish = finish
        if job.started:
            self._cache.append(np.array(job.context[:-1] if job.ids else job.context))
            self.digests.append((digest(job.input_ids), digest(job.ids)))
        job.on_change()
        self.lock.notify_all()


def digest(ids: list[int]) -> int:
    """What a test may compare with what it sent and got."""
    return zlib.crc32(np.array(ids, dtype=np.int64).tobytes())


def _common(one: np.ndarray, two: np.ndarray) -> int:
    length = min(len(one), len(two))
    different = np.flatnonzero(one[:length] != two[:length])
    return int(different[0]) if len(different) else length
