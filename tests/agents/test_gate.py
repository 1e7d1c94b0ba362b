"""The gate: who may begin at which version; and free running behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.base import Generation, Request
from agents.free import FreeRun
from agents.gate import Gate, Stopped
from retool_env.errors import EngineError


def request(ticket: int) -> Request:
    return Request(token_ids=np.array([1]), budget=1, session=ticket)


@given(
    per_step=st.integers(1, 7),
    staleness=st.integers(0, 3),
    version=st.integers(0, 9),
    ticket=st.integers(0, 90),
    end=st.none() | st.integers(0, 60),
)
def test_a_ticket_is_admitted_by_its_step(
    per_step: int, staleness: int, version: int, ticket: int, end: int | None
) -> None:
    gate = Gate(tickets_per_step=per_step, staleness=staleness, num_tickets=end)
    assert not gate.is_open(ticket)
    gate.set_version(version)
    exists = end is None or ticket < end
    assert gate.is_open(ticket) == (exists and ticket // per_step <= version + staleness)


@given(version=st.integers(0, 5), more=st.integers(0, 9), end=st.none() | st.integers(0, 30), late=st.booleans())
def test_further_tickets_move_those_of_later_steps(version: int, more: int, end: int | None, late: bool) -> None:
    gate, plain = (Gate(tickets_per_step=3, num_tickets=end) for _ in range(2))
    if late:
        gate.set_version(version)
    gate.admit_more(more)
    assert gate.extra == more
    if not late:
        assert not gate.is_open(0), "closed to all before the first version"
    for now in (version, version + 1):
        gate.set_version(now)
        plain.set_version(now)
        assert [gate.is_open(k + more) for k in range(30)] == [plain.is_open(k) for k in range(30)]


def test_waiting_ends_with_the_version_or_with_the_gate() -> None:
    gate = Gate(tickets_per_step=2)
    with ThreadPoolExecutor(4) as threads:
        waits = [threads.submit(gate.wait, ticket) for ticket in range(4)]
        gate.set_version(0)
        assert [waits[ticket].result(timeout=20) for ticket in (0, 1)] == [None, None]
        assert not waits[2].done()
        assert not waits[3].done()
        gate.close()
        for ticket in (2, 3):
            with pytest.raises(Stopped):
                waits[ticket].result(timeout=20)
    with pytest.raises(Stopped):
        gate.wait(0)


def opened(tickets: int = 9) -> Gate:
    gate = Gate(tickets_per_step=tickets)
    gate.set_version(0)
    return gate


def test_no_turn_waits_for_a_slow_one() -> None:
    slow = threading.Event()

    class Engine:
        def act(self, request: Request) -> Generation:
            if request.session == 0:
                assert slow.wait(20)
            return Generation.written([request.session])

    run = FreeRun(Engine(), opened())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run.act, 0, request(0))
        assert [run.act(k, request(k)).token_ids.tolist() for k in (1, 2, 3)] == [[1], [2], [3]]
        assert not first.done()
        slow.set()
        assert first.result(timeout=20).token_ids.tolist() == [0]


def test_serve_waits_for_what_another_thread_makes_true() -> None:
    class Engine:
        def act(self, request: Request) -> Generation:
            return Generation.written([1])

    run, done = FreeRun(Engine(), opened()), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(run.serve, done.is_set)
        run.poke()
        assert not serving.done()
        done.set()
        run.poke()
        assert serving.result(timeout=20) is None
    run.close()
    run.serve(lambda: False)  # a closed one serves nobody


class DrivenEngine:
    """Answers in whichever thread serves it."""

    def __init__(self) -> None:
        self.asked: list[tuple[threading.Event, Request]] = []
        self.changed = threading.Condition()
        self.threads: set[int] = set()

    def act(self, request: Request) -> Generation:
        answered = threading.Event()
        with self.changed:
            self.asked.append((answered, request))
            self.changed.notify()
        if request.cancel is not None:
            request.cancel.add(answered.set)
        answered.wait()
        return Generation.written([request.session])

    def serve(self, done: Callable[[], bool]) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: done() or self.asked)
                if done():
                    return
                answered, _ = self.asked.pop()
            self.threads.add(threading.get_ident())
            answered.set()

    def poke(self) -> None:
        with self.changed:
            self.changed.notify()


def test_an_engine_that_wants_the_waiting_thread_gets_it() -> None:
    engine = DrivenEngine()
    run = FreeRun(engine, opened())
    with ThreadPoolExecutor(4) as threads:
        turns = [threads.submit(run.act, k, request(k)) for k in range(4)]
        for turn in turns:
            turn.add_done_callback(lambda _: run.poke())
        run.serve(lambda: all(turn.done() for turn in turns))
    assert sorted(turn.result().token_ids.tolist() for turn in turns) == [[k] for k in range(4)]
    assert engine.threads == {threading.get_ident()}


def test_closing_ends_what_is_in_flight() -> None:
    run = FreeRun(DrivenEngine(), opened())
    with ThreadPoolExecutor(1) as threads:
        turn = threads.submit(run.act, 0, request(0))  # nobody serves it
        run.close()
        with pytest.raises(Stopped):
            turn.result(timeout=20)


@pytest.mark.parametrize("error", [EngineError("gone"), RuntimeError("out of memory")])
def test_an_engine_failure_is_said_with_its_cause(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def act(self, request: Request) -> Generation:
            raise error

    with pytest.raises(EngineError, match=str(error)):
        FreeRun(Broken(), opened()).act(3, request(3))
    assert f"the engine failed in ticket 3: {error}" in caplog.text
