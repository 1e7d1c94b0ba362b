"""Who runs when: places, the queue, fairness, cancellation, numbers."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.sandbox import Cancel, Limits, LocalSandbox, RunStatus
from retool_env.sandbox.admission import Admission
from tests.retool_env.sandbox_tools import eventually, family, skip_without_namespaces, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")


@pytest.fixture(autouse=True, scope="module")
def _needs_namespaces() -> None:
    skip_without_namespaces()


SLEEPER = "import time\ntime.sleep(600)"


@contextlib.contextmanager
def small(**changes: object) -> Iterator[LocalSandbox]:
    with LocalSandbox(image="light", spares=0, **changes) as opened:  # type: ignore[arg-type]
        opened.health()
        yield opened


@settings(deadline=None)
@given(keys=st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_turns_go_round_between_keys_and_in_sequence_within(keys: list[str]) -> None:
    admission = Admission(places=1, most_waiting=100)
    assert admission.enter("first", None)[0] == "admitted"
    order: list[tuple[str, int]] = []

    def work(key: str, number: int) -> None:
        assert admission.enter(key, None)[0] == "admitted"
        order.append((key, number))
        admission.leave()

    threads = []
    for number, key in enumerate(keys):
        threads.append(threading.Thread(target=work, args=(key, number)))
        threads[-1].start()
        while admission.waiting <= number:
            time.sleep(0)
    admission.leave()
    for thread in threads:
        thread.join(10)
    queues = {key: [number for number, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)}
    expected = []
    while queues:
        key = next(iter(queues))
        numbers = queues.pop(key)
        expected.append((key, numbers.pop(0)))
        if numbers:
            queues[key] = numbers
    assert order == expected
    assert (admission.running, admission.waiting) == (0, 0)


def test_many_threads_get_their_own_answers() -> None:
    with small() as sandbox, ThreadPoolExecutor(160) as pool:
        results = list(pool.map(lambda i: sandbox.run(f"print({i})\nraise SystemExit({i} % 3)"), range(320)))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(320)]
    assert [result.exit_code for result in results] == [i % 3 for i in range(320)]


def test_waiting_is_told_apart_from_running() -> None:
    with small(max_running=1) as sandbox, ThreadPoolExecutor() as pool:
        runs = [pool.submit(sandbox.run, "import time; time.sleep(0.2)") for _ in range(4)]
        results = [run.result() for run in runs]
    assert all(result.wall_seconds < 0.6 for result in results)
    assert sum(result.wall_seconds for result in results) >= 0.8
    assert max(result.queue_seconds for result in results) >= 0.6
    assert min(result.queue_seconds for result in results) < 0.2


def test_full_queue_turns_newcomers_away_at_once() -> None:
    cancel = Cancel()
    with small(max_running=1, max_queue=1) as sandbox, ThreadPoolExecutor() as pool:
        runs = [pool.submit(sandbox.run, SLEEPER, cancel=cancel) for _ in range(2)]
        assert eventually(lambda: sandbox.metrics().waiting == 1)
        result = sandbox.run("print(1)")
        assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "busy")
        cancel()
        assert {run.result(10).status for run in runs} == {RunStatus.CANCELLED}
        assert sandbox.run("print(1)").stdout == "1\n"


def test_one_key_does_not_wait_for_all_of_another() -> None:
    ended: list[str] = []

    def work(key: str) -> None:
        sandbox.run("import time; time.sleep(0.05)", key=key)
        ended.append(key)

    with small(max_running=1) as sandbox, ThreadPoolExecutor(32) as pool:
        many = [pool.submit(work, "many") for _ in range(12)]
        assert eventually(lambda: sandbox.metrics().waiting >= 8)
        pool.submit(work, "one").result(30)
        assert "one" in ended[:8]
        for run in many:
            run.result(30)


def test_cancelling_ends_the_program_and_frees_the_place() -> None:
    with temporary_folder() as folder, small(max_running=1) as sandbox, ThreadPoolExecutor() as pool:
        cancel = Cancel()
        run = pool.submit(sandbox.run, "print('begun', flush=True)\n" + SLEEPER, cancel=cancel)
        assert eventually(lambda: len(family(folder)) == 3)
        time.sleep(0.1)
        cancel()
        result = run.result(10)
        assert (result.status, result.stdout) == (RunStatus.CANCELLED, "begun\n")
        assert len(family(folder)) == 2
        assert sandbox.metrics().running == 0
        assert sandbox.run("print(1)", cancel=cancel).status is RunStatus.CANCELLED
        assert sandbox.run("print(1)").status is RunStatus.OK


def test_cancelling_leaves_the_queue() -> None:
    with small(max_running=1) as sandbox, ThreadPoolExecutor() as pool:
        first, second = Cancel(), Cancel()
        running = pool.submit(sandbox.run, SLEEPER, cancel=first)
        assert eventually(lambda: sandbox.metrics().running == 1)
        waiting = pool.submit(sandbox.run, SLEEPER, cancel=second)
        assert eventually(lambda: sandbox.metrics().waiting == 1)
        second()
        assert waiting.result(10).status is RunStatus.CANCELLED
        assert not running.done()
        first()
        assert running.result(10).status is RunStatus.CANCELLED


def test_close_does_not_wait_for_the_queue() -> None:
    with small(max_running=1) as sandbox, ThreadPoolExecutor() as pool:
        runs = [pool.submit(sandbox.run, SLEEPER) for _ in range(3)]
        assert eventually(lambda: sandbox.metrics().waiting == 2)
        sandbox.close()
        assert {run.result(20).status for run in runs} == {RunStatus.CANCELLED}


def test_two_hundred_sleep_at_once() -> None:
    code = "import time\ntime.sleep(3)\nprint('awake')"
    with temporary_folder() as folder, small(max_running=200) as sandbox, ThreadPoolExecutor(200) as pool:
        runs = [pool.submit(sandbox.run, code) for _ in range(200)]
        assert eventually(lambda: len(family(folder)) == 202, 60)
        results = [run.result(60) for run in runs]
    assert Counter((result.status, result.stdout) for result in results) == {(RunStatus.OK, "awake\n"): 200}


def test_busy_neighbours_change_no_verdict() -> None:
    """A wall clock limit alone would: sixteen programs share the processors and each needs three times its limit."""
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('done')"
    limits = Limits(cpu_seconds=0.5, wall_seconds=0.5)
    many = 8 * len(os.sched_getaffinity(0))
    with small(max_running=many) as sandbox, ThreadPoolExecutor(many) as pool:
        results = list(pool.map(lambda _: sandbox.run(burn, limits=limits), range(many)))
    assert Counter(result.status for result in results) == {RunStatus.OK: many}
    assert max(result.wall_seconds for result in results) > 0.5


def test_metrics_add_up() -> None:
    with small() as sandbox:
        sandbox.run("1 / 0")
        sandbox.run("while True: pass", limits=Limits(cpu_seconds=0.1))
        with sandbox.open_session() as session:
            session.run("1")
            assert sandbox.metrics().sessions == 1
        metrics = sandbox.metrics()
    assert metrics.runs == {"ok": 2, "error": 1, "timeout": 1}
    assert (metrics.faults, metrics.running, metrics.waiting, metrics.sessions) == ({}, 0, 0, 0)
    assert (metrics.zygote_starts, metrics.zygote_losses) == (1, 0)
    assert 0.1 <= metrics.cpu_seconds <= metrics.wall_seconds + 0.5


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"max_queue": -1}, {"spares": -1}, {"workers": 0}])
def test_nonsense_sizes_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}=.*must be at least"):
        LocalSandbox(**wrong)  # type: ignore[arg-type]
