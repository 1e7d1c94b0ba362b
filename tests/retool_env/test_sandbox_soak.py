"""Many programs of all kinds, many at a time, for a while: right answers, no outage, nothing left, no growth."""

from __future__ import annotations

import gc
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retool_env.sandbox import Limits, LocalSandbox, RunResult, RunStatus
from tests.retool_env.sandbox_tools import eventually, family, temporary_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux"),
]

RUNS = 10_000
WIDTH = 32
BRIEF = Limits(cpu_seconds=0.15, wall_seconds=1.0, memory_mb=128, output_bytes=2000, stop_bytes=20_000)
DAEMON = "import os\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(600)\nprint({n})"

# Kind, program, limits, status, how its stdout starts; {n} makes every answer its own.
KINDS: list[tuple[int, str, Limits, RunStatus, str]] = [
    (50, "print({n} * 7)", BRIEF, RunStatus.OK, "{n7}\n"),
    (10, "print({n}); raise ValueError({n})", BRIEF, RunStatus.ERROR, "{n}\n"),
    (10, "import os; open('f', 'w').write('{n}'); print(open('f').read(), os.listdir())", BRIEF, RunStatus.OK, "{n} ["),
    (6, "print({n}, flush=True)\nimport os; os._exit({n} % 5 + 1)", BRIEF, RunStatus.ERROR, "{n}\n"),
    (5, "print({n})\nx = bytearray(10 ** 9)", BRIEF, RunStatus.MEMORY, "{n}\n"),
    (5, "import os\nprint({n}, flush=True)\nos.kill(os.getpid(), 9)", BRIEF, RunStatus.KILLED, "{n}\n"),
    (4, "print({n})\nwhile True: pass", BRIEF, RunStatus.TIMEOUT, "{n}\n"),
    (2, "print({n})\nimport time; time.sleep(60)", BRIEF, RunStatus.TIMEOUT, "{n}\n"),
    (4, "print({n})\nwhile True: print('x' * 100)", BRIEF, RunStatus.OUTPUT_LIMIT, "{n}\n"),
    (4, DAEMON, Limits(subprocesses=True), RunStatus.OK, "{n}\n"),
]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_mb() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def wait_for_spares(folder: Path) -> None:
    """Spares are forked once a zygote is quiet: the count of processes before and after means something only then."""
    for _ in range(40):
        count = len(family(folder))
        time.sleep(0.5)
        if len(family(folder)) == count:
            return


def expected(number: int, text: str) -> str:
    return text.replace("{n7}", str(number * 7)).replace("{n}", str(number))


def test_ten_thousand_mixed_runs_leave_no_trace() -> None:
    choice = random.Random(0)
    jobs = choice.choices(KINDS, weights=[kind[0] for kind in KINDS], k=RUNS)

    def run(number: int) -> RunResult:
        _, code, limits, _, _ = jobs[number]
        return sandbox.run(expected(number, code), limits=limits)

    with temporary_folder() as folder, LocalSandbox(image="light") as sandbox, ThreadPoolExecutor(WIDTH) as pool:
        list(pool.map(lambda n: sandbox.run(f"print({n})"), range(300)))
        assert eventually(lambda: sandbox.metrics().running == 0)
        wait_for_spares(folder)
        before = (descriptors(), mounts(), len(family(folder)), set(Path("/dev/shm").iterdir()))
        memory = resident_mb()
        results = list(pool.map(run, range(RUNS)))
        wrong = [
            (number, jobs[number][1], result)
            for number, result in enumerate(results)
            if result.status is not jobs[number][3] or not result.stdout.startswith(expected(number, jobs[number][4]))
        ]
        assert wrong == [], (len(wrong), wrong[:3])
        assert RunStatus.SANDBOX_ERROR not in Counter(result.status for result in results)
        del results
        wait_for_spares(folder)
        assert (descriptors(), mounts(), len(family(folder)), set(Path("/dev/shm").iterdir())) == before
        assert resident_mb() - memory < 32
        assert sandbox.metrics().zygote_losses == 0
        assert list(folder.iterdir()) == []
    assert not [pid for pid in family(folder) if pid != os.getpid()]


def test_busy_neighbours_change_no_verdict_in_two_hundred_runs() -> None:
    """Programs at 60 % of their processor limit, beside four times as many busy processes as there are processors."""
    cores = len(os.sched_getaffinity(0))
    burn = "import time\nend = time.process_time() + 0.09\nwhile time.process_time() < end: pass\nprint('done')"
    limits = Limits(cpu_seconds=0.15, wall_seconds=0.6)
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * cores)]
    try:
        with LocalSandbox(image="light") as sandbox, ThreadPoolExecutor(cores) as pool:
            results = list(pool.map(lambda _: sandbox.run(burn, limits=limits), range(200)))
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert Counter((result.status, result.stdout) for result in results) == {(RunStatus.OK, "done\n"): 200}
