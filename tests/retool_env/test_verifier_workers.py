"""The processes behind the verifier: time limits, kills, threads, event loops, forks, and hostile input."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from retool_env import verifier
from retool_env.errors import InfrastructureError, UsageError
from retool_env.verifier import Verdict, pool, verify, verify_async, verify_batch, warm_up
from retool_env.verifier.pool import WorkerPool, shared_pool
from retool_env.verifier.symbolic import SymbolicWorker

REPO = Path(__file__).resolve().parents[2]
MAX_SECONDS = 2.0
MAX_GROWTH_KIB = 50 * 1024

# The guards let it through, and math-verify works on it for much longer than the limit.
SLOW = (" ".join(rf"\sin {n}x" for n in range(1, 9)), " ".join(rf"\cos {n}x" for n in range(1, 9)))

BOMBS = [
    "2003^{2002^{2001}}", "10^{10^{10}}", "1E+1000000000", "(10^9)!", r"\binom{1000000000}{500000000}",
    "34" + "!" * 50, r"\sum_{k=1}^{1000000000} k^k", r"[2^{1/2^{1000}}, \infty)", "((x+1)^{100}+1)^{100}",
    r"\sin(10^{10^{10}})", "(x+" * 29 + "1" + ")" * 29, "(" * 100_000, "{" * 50_000 + "}" * 50_000, "9" * 100_000,
    r"\frac{1}{1+" * 2000 + "x" + "}" * 2000, "x+" * 20_000 + "x", r"\pm 1" * 200, "x=" * 5000 + "1",
    "__import__('os').system('touch canary')", r"\pi*open('canary','w')", "exec(\"open('canary','w')\")",
    r"\write18{touch canary}", "[c for c in ().__class__.__base__.__subclasses__()][0]", "\x00" * 500, "\ud800" * 500,
]  # fmt: skip

# Pairs that need no algebra, that need it, and that make it hang; both verdicts occur in each kind.
QUICK = [("34", "34"), ("35", "34"), (r"\frac12", "0.5"), ("1,2", "2,1"), ("34 or 35", "34"), ("(C)", "C"), ("{", "1")]
ALGEBRA = [
    (r"\frac{1}{1+\sqrt2}", r"\sqrt{2}-1"), (r"\log_2 8", "3"), ("(x+1)^2", "x^2+2x+1"), ("(x+1)^2", "x^2+1"),
    ("2x - y + 1 = 0", "y=2x+1"), (r"\sqrt{8}", r"3\sqrt{2}"), (r"(\sqrt{8}, 1)", r"(2\sqrt2, 1)"), ("1/0", "0"),
]  # fmt: skip


def boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def outcome(verdict: Verdict) -> tuple[bool, str, str]:
    return verdict.correct, verdict.method, verdict.reason


@pytest.fixture(scope="module", autouse=True)
def _two_workers() -> Iterator[None]:
    """Start the workers before anything is timed, and end them with the module."""
    warm_up(2)
    yield
    verifier.close()


def working_children(pid: int) -> list[int]:
    """The processes that compute: the children of a worker."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def test_bombs_are_bounded_harmless_and_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pids, before = shared_pool().pids, resident_kib()
    for bomb in [*BOMBS, SLOW[0]]:
        for gold in ("34", SLOW[1]):
            verdict = verify(boxed(bomb), gold)
            assert not verdict.correct, bomb[:80]
            assert verdict.elapsed < MAX_SECONDS, (bomb[:80], verdict)
    assert resident_kib() - before < MAX_GROWTH_KIB
    assert shared_pool().pids == pids, "a worker was lost"
    assert not list(tmp_path.iterdir()), "code of a response was run"


@pytest.mark.parametrize(
    "text",
    ["{" * 10**6, "\\boxed{" * 150_000, "Answer: " * 125_000, "```" * 330_000, "<answer>" * 125_000, "\\" * 10**6,
     "</code>" * 140_000, "\\boxed{34}, " * 80_000, "<answer>3</answer>" * 55_000, "our answer: " * 80_000],
)  # fmt: skip
def test_a_megabyte_is_no_problem(text: str) -> None:
    """What is quadratic in its length would take hours of processor time."""
    before = time.process_time()
    verify(text, "35")
    assert time.process_time() - before < 2.0


def test_a_hanging_question_is_killed_and_the_next_one_works() -> None:
    one = WorkerPool(1)
    assert one.warm_up() == 1
    before = working_children(one.pids[0])
    started = time.monotonic()
    assert one.ask(*SLOW, seconds=0.4).verdict == "timeout"
    assert 0.4 <= time.monotonic() - started < 0.9
    assert one.ask("x+1", "1+x", seconds=1.0).verdict == "equal"
    assert time.monotonic() - started < 1.5
    after = working_children(one.pids[0])
    assert len(before) == len(after) == 1
    assert before != after
    assert not Path(f"/proc/{before[0]}").exists()
    one.close()


def test_the_clock_counts_from_dispatch() -> None:
    """With one worker, questions that wait behind slow ones still get their own time."""
    one = WorkerPool(1)
    one.warm_up()
    with ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(one.ask, *SLOW, seconds=0.5) for _ in range(3)]
        time.sleep(0.1)
        quick = threads.submit(one.ask, "x+1", "1+x", seconds=0.5)
        assert [future.result().verdict for future in slow] == ["timeout"] * 3
        assert quick.result().verdict == "equal"
        assert quick.result().seconds < 0.5
    one.close()


def test_a_timeout_is_its_own_verdict() -> None:
    assert outcome(verify(boxed(SLOW[0]), SLOW[1])) == (False, "none", "timeout")


def test_a_worker_that_stops_answering_is_replaced() -> None:
    worker = SymbolicWorker()
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    assert worker.pid
    os.kill(worker.pid, signal.SIGSTOP)
    assert worker.ask("x+1", "1+x", seconds=0.2).verdict == "timeout"
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    os.kill(worker.pid, signal.SIGKILL)
    assert worker.ask("x+1", "1+x", seconds=5.0).verdict == "equal"
    worker.close()
    assert worker.pid is None


def test_a_dead_child_is_a_crash_and_is_replaced() -> None:
    one = WorkerPool(1)
    one.warm_up()
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(one.ask, *SLOW, seconds=5.0)
        time.sleep(0.3)
        os.kill(working_children(one.pids[0])[0], signal.SIGKILL)
        assert answer.result().verdict == "crash"
    assert one.ask("x+1", "1+x", seconds=1.0).verdict == "equal"
    one.close()


def test_a_child_is_recycled() -> None:
    one = WorkerPool(1)
    one.warm_up()
    first = working_children(one.pids[0])
    for _ in range(1001):
        assert one.ask("x", "x", seconds=1.0).verdict == "equal"
    assert working_children(one.pids[0]) != first
    one.close()


def test_a_pool_starts_only_what_it_needs() -> None:
    three = WorkerPool(3)
    assert three.pids == []
    for _ in range(3):
        three.ask("x+1", "1+x", seconds=5.0)
    assert len(three.pids) == 1
    assert three.warm_up() == 3
    assert len(set(three.pids)) == 3
    three.close()
    assert three.pids == []


@pytest.mark.parametrize(
    "script", ["raise SystemExit(1)", "print('hello', flush=True)", "print('{}', flush=True)", "print(3)"]
)
def test_a_worker_that_cannot_start_is_an_outage(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "worker.py"
    path.write_text(script)
    monkeypatch.setattr(pool, "_POOL", WorkerPool(1, script=path))
    for _ in range(4):
        verdict = verify(r"\boxed{x+1}", "1+x")
        assert outcome(verdict) == (False, "none", "outage")
    assert verdict.elapsed < 0.01, "a worker that keeps failing is left alone"
    assert verify(r"\boxed{34}", "34").correct
    with pytest.raises(InfrastructureError, match="0 of 1 verifier workers"):
        warm_up()


def test_a_pool_needs_a_worker() -> None:
    with pytest.raises(UsageError, match="workers=0"):
        WorkerPool(0)


def mixed_jobs(count: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    jobs = [rng.choice(rng.choice((QUICK, ALGEBRA))) for _ in range(count)]
    return [(boxed(pred), gold) for pred, gold in jobs]


def test_threads_batches_and_tasks_give_the_verdicts_of_a_serial_run() -> None:
    jobs = [*mixed_jobs(510), *[(boxed(SLOW[0]), SLOW[1])] * 2]
    serial = [outcome(verify(*job)) for job in jobs]
    assert len(set(serial)) > 4

    async def tasks() -> list[Verdict]:
        return await asyncio.gather(*(verify_async(*job) for job in jobs))

    with ThreadPoolExecutor(8) as threads:
        assert [outcome(verdict) for verdict in threads.map(lambda job: verify(*job), jobs)] == serial
    assert [outcome(verdict) for verdict in asyncio.run(tasks())] == serial
    responses, golds = zip(*jobs, strict=True)
    assert [outcome(verdict) for verdict in verify_batch(responses, golds)] == serial


def test_a_batch_needs_a_gold_for_each_response() -> None:
    with pytest.raises(UsageError, match="2 responses but 1 golds"):
        verify_batch(["a", "b"], ["1"])
    assert verify_batch([], []) == []


def test_an_event_loop_is_not_blocked() -> None:
    async def ticks_during_a_slow_check() -> int:
        check = asyncio.ensure_future(verify_async(boxed(SLOW[0]), SLOW[1]))
        ticks = 0
        while not check.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(ticks_during_a_slow_check()) > 20


@pytest.mark.slow
def test_two_hundred_bombs_among_two_thousand_checks_change_nothing() -> None:
    normal = mixed_jobs(2000)
    expected = {job: outcome(verify(*job)) for job in set(normal)}
    bombs = [(boxed(BOMBS[index % len(BOMBS)]), "34") for index in range(188)] + [(boxed(SLOW[0]), SLOW[1])] * 12
    jobs = [*normal, *bombs]
    random.Random(2).shuffle(jobs)
    pids = shared_pool().pids
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda job: verify(*job), jobs))
    for job, verdict in zip(jobs, verdicts, strict=True):
        assert outcome(verdict) == expected.get(job, outcome(verdict))
        assert job in expected or not verdict.correct
    assert shared_pool().pids == pids
    assert all(len(working_children(pid)) == 1 for pid in pids)


def test_the_callers_alarm_still_fires() -> None:
    fired: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, _: fired.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert verify(boxed(SLOW[0]), SLOW[1]).reason == "timeout"
        assert fired == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def run_script(body: str) -> dict[str, Any]:
    """Run a script in a fresh interpreter; it prints one JSON object."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", textwrap.dedent(body)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_no_algebra_library_enters_the_callers_process() -> None:
    result = run_script(
        r"""
        import json, sys, time
        import dataclasses, fractions, functools, re, select, threading, typing  # what any trainer has imported
        import retool_env
        started = time.perf_counter()
        from retool_env import verifier
        seconds = time.perf_counter() - started
        correct = verifier.verify(r"\boxed{\log_2 8}", "3").correct
        heavy = [name for name in ("sympy", "math_verify", "latex2sympy2_extended", "antlr4") if name in sys.modules]
        print(json.dumps({"seconds": seconds, "correct": correct, "heavy": heavy}))
        """
    )
    assert result["correct"]
    assert result["heavy"] == []
    assert result["seconds"] < 0.15  # about 0.02 on a quiet core


def test_a_forked_child_has_a_worker_of_its_own() -> None:
    result = run_script(
        r"""
        import json, os
        from retool_env.verifier import verify
        from retool_env.verifier.pool import shared_pool
        ours = verify(r"\boxed{\log_2 8}", "3").correct
        pid = os.fork()
        if pid == 0:
            theirs = shared_pool().pids == [] and verify(r"\boxed{\log_2 16}", "4").correct
            os._exit(0 if theirs else 1)
        theirs = os.waitpid(pid, 0)[1] == 0
        still = verify(r"\boxed{\log_2 32}", "5").correct
        print(json.dumps({"ours": ours, "theirs": theirs, "still": still}))
        """
    )
    assert result == {"ours": True, "theirs": True, "still": True}


def test_the_worker_dies_with_its_parent() -> None:
    result = run_script(
        r"""
        import json, os
        from retool_env.verifier import verify
        from retool_env.verifier.pool import shared_pool
        verify(r"\boxed{\log_2 8}", "3")
        print(json.dumps({"pid": shared_pool().pids[0]}), flush=True)
        os._exit(0)
        """
    )
    deadline = time.monotonic() + 10
    while is_running(result["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(result["pid"])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
