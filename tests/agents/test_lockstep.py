"""The scheduler: one batch at a time, ordered by ticket, gated by version, and never stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from agents.base import Generation, Request
from agents.gate import Gate, Stopped
from agents.lockstep import Lockstep
from retool_env.errors import EngineError


class Echo:
    """Answers with the session number and remembers the batches."""

    def __init__(self, error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.error = error

    def act(self, request: Request) -> Generation:
        return self.act_many([request])[0]

    def act_many(self, requests: list[Request]) -> list[Generation]:
        if self.error:
            raise self.error
        self.batches.append([request.session for request in requests])
        return [Generation.written([request.session]) for request in requests]


@contextmanager
def serving(agent: Echo, *, num_slots: int, **settings: int) -> Iterator[Lockstep]:
    """A scheduler whose batches run in a thread of the test."""
    scheduler = Lockstep(agent, Gate(**settings), num_slots=num_slots)
    server = threading.Thread(target=scheduler.serve, args=(lambda: False,))
    server.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
        server.join(timeout=20)
        assert not server.is_alive()


def request(ticket: int) -> Request:
    return Request(token_ids=np.array([1]), budget=1, session=ticket)


def run(scheduler: Lockstep, seed: int, tickets: list[int], turns: int, jitter: float, got: list) -> threading.Thread:
    def work() -> None:
        rng = np.random.default_rng(seed)
        for ticket in tickets:
            for _ in range(turns):
                time.sleep(jitter * rng.random())
                try:
                    got.append(scheduler.act(ticket, request(ticket)).token_ids.tolist())
                except Stopped:
                    return

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_batches_do_not_depend_on_who_is_quick() -> None:
    seen = []
    for jitter in (0.0, 0.01):
        echo = Echo()
        got: list = []
        with serving(echo, num_slots=4, tickets_per_step=4) as scheduler:
            scheduler.set_version(0)
            threads = [run(scheduler, s, [s, s + 4], 2, jitter, got) for s in range(4)]
            while len(got) < 8:
                time.sleep(0.01)
            scheduler.set_version(1)
            for thread in threads:
                thread.join(timeout=20)
                assert not thread.is_alive()
        assert sorted(map(tuple, got)) == sorted((t,) for t in range(8) for _ in range(2))
        seen.append(echo.batches)
    assert seen[0] == seen[1] == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2


def test_the_gate_holds_tickets_of_later_steps() -> None:
    echo = Echo()
    got: list = []
    with serving(echo, num_slots=2, tickets_per_step=2) as scheduler:
        threads = [run(scheduler, s, [s, s + 2], 1, 0.0, got) for s in range(2)]
        time.sleep(0.2)
        assert echo.batches == []
        scheduler.set_version(0)
        time.sleep(0.3)
        assert echo.batches == [[0, 1]]
        scheduler.set_version(1)
        for thread in threads:
            thread.join(timeout=20)
        assert echo.batches == [[0, 1], [2, 3]]


def test_staleness_opens_the_gate_earlier() -> None:
    echo = Echo()
    got: list = []
    with serving(echo, num_slots=1, tickets_per_step=1, staleness=1) as scheduler:
        thread = run(scheduler, 0, [0, 1, 2], 1, 0.0, got)
        scheduler.set_version(0)
        time.sleep(0.3)
        assert echo.batches == [[0], [1]]
        scheduler.set_version(1)
        thread.join(timeout=20)
        assert echo.batches == [[0], [1], [2]]


@pytest.mark.parametrize("error", [EngineError("gone"), RuntimeError("out of memory")])
def test_an_engine_failure_reaches_every_slot_and_the_next_batch_works(error: Exception) -> None:
    echo = Echo(error)
    with serving(echo, num_slots=1, tickets_per_step=9) as scheduler:
        scheduler.set_version(0)
        with pytest.raises(EngineError):
            scheduler.act(0, request(0))
        echo.error = None
        assert scheduler.act(1, request(1)).token_ids.tolist() == [1]


def test_done_is_asked_only_when_every_thread_waits() -> None:
    """So what is finished when serve() returns does not depend on who is quick."""
    gate = Gate(tickets_per_step=2)
    scheduler = Lockstep(Echo(), gate, num_slots=2)
    scheduler.set_version(0)
    got: list = []
    live_when_asked = []

    def done() -> bool:
        live_when_asked.append(2 - len(scheduler._waiting))
        return len(got) >= 1  # true as soon as the first thread has its turn

    threads = [run(scheduler, s, [s, s + 2], 1, jitter, got) for s, jitter in enumerate((0.0, 0.2))]
    scheduler.serve(done)
    assert len(got) == 2
    assert set(live_when_asked) == {0}
    scheduler.close()
    for thread in threads:
        thread.join(timeout=20)


def test_close_wakes_those_who_wait() -> None:
    scheduler = Lockstep(Echo(), Gate(tickets_per_step=1), num_slots=2)
    raised = []

    def wait() -> None:
        try:
            scheduler.act(0, request(0))
        except Stopped as stopped:
            raised.append(stopped)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    scheduler.close()
    thread.join(timeout=20)
    assert len(raised) == 1
    with pytest.raises(Stopped):
        scheduler.act(1, request(1))
