"""The sandbox against programs that misbehave: every test runs real processes and states one property.

Nothing here proves speed; the generous bounds prove that nobody hangs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.sandbox import (
    Limits,
    LocalSandbox,
    RunStatus,
    Sandbox,
    exchange,
    open_sandbox,
    process,
    release,
    shared_sandbox,
)
from retool_env.sandbox.capture import STOP_FACTOR, Capture
from retool_env.sandbox.exchange import judge
from retool_env.sandbox.scratch import remove_tree
from retool_env.sandbox.wire import Report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

BRIEF = Limits(cpu_seconds=0.3, wall_seconds=20.0, memory_mb=128)
ROOMY = Limits(cpu_seconds=10.0, wall_seconds=20.0, memory_mb=128)
SLEEPER = "import time\nopen('asleep', 'w').close()\ntime.sleep(600)"
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def family(folder: Path) -> list[int]:
    """Every living process of a sandbox whose directory is below ``folder``."""
    mark = f"{process.MARK}={folder}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def zygote_of(sandbox: LocalSandbox) -> int:
    return int(sandbox.run("import os; print(os.getppid())").stdout)


def asleep(folder: Path) -> bool:
    """A :data:`SLEEPER` has arrived where it sleeps."""
    return any(folder.glob("*/*/asleep"))


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Not pytest's ``tmp_path``, which other users may not enter: programs have a user id of their own."""
    folder = Path(tempfile.mkdtemp(prefix="test-sandbox-"))
    folder.chmod(0o755)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        remove_tree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as path:
        yield path


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox() as opened:
        yield opened


STATUSES = [
    ("print(1)", RunStatus.OK, 0),
    ("", RunStatus.OK, 0),
    ("import sys; sys.exit()", RunStatus.OK, 0),
    ("import os; os._exit(0)", RunStatus.OK, 0),
    ("import sys; sys.stdout.close()", RunStatus.OK, 0),
    ("import sys; del sys.stdout", RunStatus.OK, 0),
    ("import threading; threading.Thread(target=lambda: 1 / 0).start()", RunStatus.OK, 0),
    ("import sys; sys.exit(3)", RunStatus.ERROR, 3),
    ("import sys; sys.exit('reason')", RunStatus.ERROR, 1),
    ("import os; os._exit(7)", RunStatus.ERROR, 7),
    ("1 / 0", RunStatus.ERROR, 1),
    ("x = = 1", RunStatus.ERROR, 1),
    ("x = '\ud800'", RunStatus.ERROR, 1),
    ("a\0b", RunStatus.ERROR, 1),
    ("(" * 100_000, RunStatus.ERROR, 1),
    ("-" * 300_000 + "1", RunStatus.ERROR, 1),
    ("raise KeyboardInterrupt", RunStatus.ERROR, 1),
    ("def f(): f()\nf()", RunStatus.ERROR, 1),
    ("input()", RunStatus.ERROR, 1),
    ("import os; os.close(2); 1 / 0", RunStatus.ERROR, 1),
    ("import sys; sys.excepthook = None; 1 / 0", RunStatus.ERROR, 1),
    ("class E(Exception):\n    def __str__(self): raise E\nraise E", RunStatus.ERROR, 1),
    ("import os\nos._exit = print\nraise ValueError", RunStatus.ERROR, 1),
    ("while True: pass", RunStatus.TIMEOUT, None),
    ("10 ** 10 ** 10", RunStatus.TIMEOUT, None),
    ("import signal; signal.pthread_sigmask(0, range(1, 65))\nwhile True: pass", RunStatus.TIMEOUT, None),
    ("import threading\nthreading.Thread(target=lambda: any(iter(int, 1))).start()", RunStatus.TIMEOUT, None),
    ("raise MemoryError", RunStatus.MEMORY, 1),
    ("bytearray(10 ** 9)", RunStatus.MEMORY, 1),
    ("x = []\nwhile True: x.append('a' * 10 ** 6)", RunStatus.MEMORY, 1),
    ("while True: print('x' * 1000)", RunStatus.OUTPUT_LIMIT, None),
    ("import sys\nwhile True: sys.stderr.write('x' * 1000)", RunStatus.OUTPUT_LIMIT, None),
    ("print('x' * 10 ** 7)", RunStatus.OUTPUT_LIMIT, None),
    ("import os; os.abort()", RunStatus.KILLED, None),
    ("import os; os.kill(os.getpid(), 9)", RunStatus.KILLED, None),
    ("import os; os.kill(0, 9)", RunStatus.KILLED, None),
    ("import signal; signal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass", RunStatus.KILLED, None),
]


@pytest.mark.parametrize(("code", "status", "exit_code"), STATUSES, ids=[repr(row[0])[:50] for row in STATUSES])
def test_status_tells_how_the_program_ended(
    sandbox: LocalSandbox, code: str, status: RunStatus, exit_code: int | None
) -> None:
    result = sandbox.run(code, limits=BRIEF if status is RunStatus.TIMEOUT else ROOMY)
    assert (result.status, result.exit_code) == (status, exit_code), result


def test_sleeping_is_stopped_by_the_wall_clock(sandbox: LocalSandbox) -> None:
    result = sandbox.run(SLEEPER, limits=Limits(wall_seconds=0.3))
    assert result.status is RunStatus.TIMEOUT
    assert result.cpu_seconds < 0.3 <= result.wall_seconds < 10


def test_stopped_process_is_ended_too(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import os; os.kill(os.getpid(), 19)", limits=Limits(wall_seconds=0.3))
    assert result.status is RunStatus.TIMEOUT


def test_processor_limit_is_finer_than_a_second(sandbox: LocalSandbox) -> None:
    result = sandbox.run("while True: pass", limits=Limits(cpu_seconds=0.2))
    assert result.status is RunStatus.TIMEOUT
    assert 0.2 <= result.cpu_seconds < 0.7


def test_processor_time_of_children_counts(sandbox: LocalSandbox) -> None:
    code = "import os\nif os.fork() == 0:\n    for _ in range(10**7): pass\nos.wait()"
    assert sandbox.run(code, limits=Limits(cpu_seconds=0.2)).status is RunStatus.TIMEOUT


def test_output_before_a_timeout_is_kept(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print('first')\nwhile True: pass", limits=Limits(cpu_seconds=0.1))
    assert (result.status, result.stdout) == (RunStatus.TIMEOUT, "first\n")


def test_long_output_keeps_head_and_tail(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print('head' + 'x' * 2000 + 'tail')", limits=Limits(output_bytes=1000))
    assert result.status is RunStatus.OK
    assert result.stdout.startswith("headx")
    assert result.stdout.endswith("xtail\n")
    assert "\n[... 1009 bytes cut ...]\n" in result.stdout


def test_flood_shows_the_same_text_every_time(sandbox: LocalSandbox) -> None:
    code = "import itertools\nfor i in itertools.count(): print(i)"
    results = {sandbox.run(code, limits=Limits(output_bytes=1000)).stdout for _ in range(3)}
    assert len(results) == 1


def test_invalid_bytes_do_not_cost_the_rest(sandbox: LocalSandbox) -> None:
    result = sandbox.run(r"import os; os.write(1, b'a\xff\xc3\xa9b')")
    assert result.stdout == "a\ufffd\u00e9b"


def test_traceback_shows_only_frames_of_the_program(sandbox: LocalSandbox) -> None:
    result = sandbox.run("def f():\n    return 1 / 0\nf()")
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert [line.strip() for line in lines if line.startswith("  File")] == [
        'File "<code>", line 3, in <module>',
        'File "<code>", line 2, in f',
    ]
    assert "    return 1 / 0" in lines
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_syntax_error_reads_as_python_writes_it(sandbox: LocalSandbox) -> None:
    lines = sandbox.run("x = 1\ny = (\n").stderr.splitlines()
    assert lines[0] == '  File "<code>", line 2'
    assert lines[-1] == "SyntaxError: '(' was never closed"


def test_program_ends_as_a_python_file_ends(sandbox: LocalSandbox) -> None:
    code = """
import atexit, sys, threading, time
class Last:
    def __del__(self): print('destroyed')
last = Last()
atexit.register(print, 'atexit')
threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()
print(__name__, end=' ')
"""
    assert sandbox.run(code).stdout.split() == ["__main__", "thread", "atexit", "destroyed"]


ECHOES = [
    ("1 + 1", "2\n"),
    ("x = 5", ""),
    ("x = 5\nx", "5\n"),
    ("x = 5\nx  # the value", "5\n"),
    ("x = 5\n# only a comment", ""),
    ("for i in range(3):\n    i", ""),
    ("if True:\n    5", ""),
    ("max(\n    1,\n    2,\n)", "2\n"),
    ("x = 1; x + 1", "2\n"),
    ("1; 2", "2\n"),
    ("7;", "7\n"),
    ("print(3)", "3\n"),
    ("'text'", "text\n"),
    ("['text']", "['text']\n"),
    ("None", ""),
    ("def f():\n    return 4\nf()", "4\n"),
    ("from __future__ import annotations\n8", "8\n"),
    ("", ""),
]


@pytest.mark.parametrize(("code", "echo"), ECHOES)
def test_notebook_prints_a_trailing_value_only(sandbox: LocalSandbox, code: str, echo: str) -> None:
    result = sandbox.run(code, mode="notebook")
    assert (result.status, result.stdout) == (RunStatus.OK, echo)


def test_script_prints_no_trailing_value(sandbox: LocalSandbox) -> None:
    assert sandbox.run("1 + 1").stdout == ""


def test_notebook_keeps_line_numbers(sandbox: LocalSandbox) -> None:
    code = "a = 1\n\n# comment\n1 / 0"
    assert sandbox.run(code, mode="notebook").stderr == sandbox.run(code).stderr


def test_failing_repr_is_an_error_of_the_program(sandbox: LocalSandbox) -> None:
    result = sandbox.run("class A:\n    def __repr__(self): return 1 / 0\nA()", mode="notebook")
    assert result.status is RunStatus.ERROR
    assert 'File "<code>", line 2, in __repr__' in result.stderr
    assert "guest" not in result.stderr


def test_program_reads_its_input(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import sys\nprint(input())\nprint(sys.stdin.read())", stdin="one\ntwo\nthr\u00e9e")
    assert result.stdout == "one\ntwo\nthr\u00e9e\n"


def test_no_input_is_end_of_file(sandbox: LocalSandbox) -> None:
    assert sandbox.run("input()").stderr.splitlines()[-1] == "EOFError: EOF when reading a line"


def test_same_seed_same_numbers(sandbox: LocalSandbox) -> None:
    code = "import random; print(random.random())"
    first, again, other = (sandbox.run(code, seed=seed).stdout for seed in (1, 1, 2))
    assert first == again != other
    assert float(first) == random.Random(1).random()


def test_order_of_sets_does_not_depend_on_the_zygote(sandbox: LocalSandbox) -> None:
    code = "print({str(i) for i in range(50)})"
    with LocalSandbox() as second:
        assert sandbox.run(code).stdout == second.run(code).stdout


def test_callers_environment_stays_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS_SECRET", "hush")
    with LocalSandbox() as opened:
        result = opened.run("import os; print(os.environ); print(open('/proc/self/environ').read())")
    assert result.status is RunStatus.OK
    assert "hush" not in result.stdout


def test_callers_descriptors_stay_outside(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import os\nfor i in range(4, 64):\n    try: print(i, os.fstat(i))\n    except OSError: pass")
    assert (result.status, result.stdout) == (RunStatus.OK, "")


def test_programs_share_no_state(sandbox: LocalSandbox) -> None:
    spoil = "import builtins, math\nbuiltins.print = math.pi = None\nopen('left', 'w').close()"
    assert sandbox.run(spoil).status is RunStatus.OK
    result = sandbox.run("import math, os\nprint(round(math.pi, 2), os.listdir())")
    assert result.stdout == "3.14 []\n"


def test_program_can_use_its_directory(sandbox: LocalSandbox) -> None:
    code = "import tempfile\nopen('mine.py', 'w').write('x = 1')\nimport mine\nprint(mine.x, bool(tempfile.mkdtemp()))"
    assert sandbox.run(code).stdout == "1 True\n"


def test_hostile_directories_are_removed(folder: Path) -> None:
    code = (
        "import os\nfor _ in range(1200):\n    os.mkdir('d'); os.chdir('d')\nopen('f', 'w').close(); os.chmod('.', 0)"
    )
    with LocalSandbox() as opened:
        assert opened.run(code).status is RunStatus.OK
        assert list(folder.glob("*/*")) == []


def test_links_out_of_the_directory_are_not_followed(folder: Path) -> None:
    (folder / "precious").mkdir()
    (folder / "precious" / "file").touch()
    (folder / "tree" / "sub").mkdir(parents=True)
    (folder / "tree" / "sub" / "link").symlink_to(folder / "precious")
    remove_tree(folder / "tree")
    assert sorted(path.name for path in folder.rglob("*")) == ["file", "precious"]


def test_daemon_dies_with_its_program(folder: Path) -> None:
    with LocalSandbox() as opened:
        assert opened.run(DAEMON).status is RunStatus.OK
        assert eventually(lambda: len(family(folder)) == 1)


def test_orphans_of_one_program_do_not_disturb_another(sandbox: LocalSandbox) -> None:
    patient = "import os, time\nif os.fork() == 0:\n    time.sleep(0.5); print('child'); os._exit(0)\nos.wait()"
    with ThreadPoolExecutor() as pool:
        result = pool.submit(sandbox.run, patient)
        assert sandbox.run(DAEMON).status is RunStatus.OK
        assert result.result().stdout == "child\n"


def test_fork_bomb_is_bounded_and_swept(folder: Path) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    with LocalSandbox() as opened:
        result = opened.run(code, limits=Limits(cpu_seconds=0.2, wall_seconds=0.5))
        assert result.status is RunStatus.TIMEOUT
        assert eventually(lambda: len(family(folder)) == 1)
        assert opened.health().status is RunStatus.OK


def test_killing_its_own_group_leaves_neighbours_alone(sandbox: LocalSandbox) -> None:
    with ThreadPoolExecutor() as pool:
        result = pool.submit(sandbox.run, "import time; time.sleep(0.5); print('alive')")
        assert sandbox.run("import os; os.kill(0, 9)").status is RunStatus.KILLED
        assert result.result().stdout == "alive\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give programs a user of their own")
def test_programs_of_root_are_not_root(sandbox: LocalSandbox) -> None:
    result = sandbox.run("import os\nprint(os.getuid() > 0)\nos.kill(os.getppid(), 9)")
    assert result.stdout == "True\n"
    assert "PermissionError" in result.stderr


def test_many_threads_get_their_own_answers(sandbox: LocalSandbox) -> None:
    with ThreadPoolExecutor(160) as pool:
        results = list(pool.map(lambda i: sandbox.run(f"print({i})\nraise SystemExit({i} % 3)"), range(320)))
    assert [result.stdout for result in results] == [f"{i}\n" for i in range(320)]
    assert [result.exit_code for result in results] == [i % 3 for i in range(320)]


def test_waiting_for_admission_is_not_wall_time() -> None:
    with LocalSandbox(max_running=1) as opened, ThreadPoolExecutor() as pool:
        runs = [pool.submit(opened.run, "import time; time.sleep(0.2)") for _ in range(4)]
        assert all(run.result().wall_seconds < 0.6 for run in runs)
        assert sum(run.result().wall_seconds for run in runs) >= 0.8


def test_several_workers_share_the_work(folder: Path) -> None:
    with LocalSandbox(workers=2) as opened:
        parents = {opened.run("import os; print(os.getppid())").stdout for _ in range(4)}
    assert len(parents) == 2


def test_zygote_killed_under_a_program(folder: Path) -> None:
    with LocalSandbox() as opened, ThreadPoolExecutor() as pool:
        zygote = zygote_of(opened)
        run = pool.submit(opened.run, DAEMON + SLEEPER)
        assert eventually(lambda: asleep(folder))
        assert len(family(folder)) == 3
        os.kill(zygote, signal.SIGKILL)
        assert run.result(20).status is RunStatus.SANDBOX_ERROR
        assert family(folder) == []
        assert opened.health().status is RunStatus.OK


def test_zygote_killed_while_idle_is_not_noticed(folder: Path) -> None:
    with LocalSandbox() as opened:
        zygote = zygote_of(opened)
        os.kill(zygote, signal.SIGKILL)
        assert eventually(lambda: ") Z " in Path(f"/proc/{zygote}/stat").read_text())
        assert opened.health().status is RunStatus.OK


def test_stuck_zygote_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(process, "_STOP_SECONDS", 0.1)
    with LocalSandbox() as opened:
        os.kill(zygote_of(opened), signal.SIGSTOP)
        assert opened.run("print(1)", limits=Limits(wall_seconds=0.1)).status is RunStatus.SANDBOX_ERROR
        assert opened.health().status is RunStatus.OK


def test_interpreter_that_does_not_start_is_a_sandbox_error(folder: Path) -> None:
    with LocalSandbox(python="/no/such/python") as missing, LocalSandbox(python="/bin/false") as broken:
        assert "/no/such/python" in missing.health().stderr
        assert [opened.health().status for opened in (missing, broken)] == [RunStatus.SANDBOX_ERROR] * 2
    assert list(folder.iterdir()) == []


def test_close_leaves_nothing_behind(folder: Path) -> None:
    opened = LocalSandbox()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(opened.run, DAEMON + SLEEPER)
        assert eventually(lambda: asleep(folder))
        opened.close()
        assert run.result(20).status is RunStatus.CANCELLED
    assert (family(folder), list(folder.iterdir())) == ([], [])
    opened.close()
    assert opened.run("print(1)").status is RunStatus.SANDBOX_ERROR


def test_death_of_the_caller_ends_everything(folder: Path) -> None:
    script = f"""
import tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import LocalSandbox
LocalSandbox().run({DAEMON + SLEEPER!r})
"""
    with subprocess.Popen([sys.executable, "-c", script]) as caller:
        assert eventually(lambda: asleep(folder), 30)
        assert len(family(folder)) == 3
        caller.kill()
    assert eventually(lambda: family(folder) == [] and list(folder.iterdir()) == [])


def test_caller_that_forgets_to_close_leaves_nothing(folder: Path) -> None:
    script = f"""
import tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import LocalSandbox
sandbox = LocalSandbox()
print(sandbox.health().stdout)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("ok\n\n", "")
    assert (family(folder), list(folder.iterdir())) == ([], [])


def test_forked_process_gets_a_zygote_of_its_own(folder: Path) -> None:
    script = f"""
import os, tempfile; tempfile.tempdir = {str(folder)!r}
from retool_env.sandbox import LocalSandbox
code = "import os; print(os.getppid())"
with LocalSandbox() as sandbox:
    mine = sandbox.run(code).stdout
    if os.fork() == 0:
        theirs = sandbox.run(code).stdout
        sandbox.close()
        os._exit(0 if theirs != mine else 1)
    assert os.wait()[1] == 0
    assert sandbox.run(code).stdout == mine
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
    assert (family(folder), list(folder.iterdir())) == ([], [])


def test_an_instance_is_not_pickled(sandbox: LocalSandbox) -> None:
    with pytest.raises(TypeError, match="open_sandbox"):
        pickle.dumps(sandbox)


def test_science_image_has_its_libraries_loaded_and_seeded() -> None:
    pytest.importorskip("numpy")
    with open_sandbox("fork-science") as opened:  # type: ignore[attr-defined]
        code = "import sys\nassert 'numpy' in sys.modules\nimport numpy\nprint(numpy.random.rand())"
        first, again, other = (opened.run(code, seed=seed) for seed in (1, 1, 2))
    assert first.status is RunStatus.OK
    assert first.stdout == again.stdout != other.stdout


def test_local_sandbox_fulfils_the_contract(sandbox: LocalSandbox) -> None:
    assert isinstance(sandbox, Sandbox)
    assert sandbox.health().stdout == "ok\n"


def test_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'fork'"):
        open_sandbox("fokr")


def test_nonsense_sizes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        LocalSandbox(workers=0)


def test_shared_sandbox_lives_until_its_last_user_is_gone() -> None:
    first, second = shared_sandbox("fork"), shared_sandbox("fork")
    assert first is second
    release("fork")
    assert first.health().status is RunStatus.OK
    release("fork")
    assert first.health().status is RunStatus.SANDBOX_ERROR
    with pytest.raises(AssertionError, match="more often"):
        release("fork")


def test_importing_the_package_imports_no_backend() -> None:
    script = (
        "import sys, retool_env.sandbox as s; assert 'retool_env.sandbox.process' not in sys.modules; s.LocalSandbox"
    )
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


def report(**changes: object) -> Report:
    ended: Report = {
        "started": True, "fault": "", "memory": False, "code": 0, "why": "", "cpu_seconds": 0.1, "wall_seconds": 0.1
    }  # fmt: skip
    return {**ended, **changes}  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("ended", "overflowed", "status"),
    [
        (report(), False, RunStatus.OK),
        (report(code=1), False, RunStatus.ERROR),
        (report(code=1, memory=True), False, RunStatus.MEMORY),
        (report(code=-9, memory=True), False, RunStatus.MEMORY),
        (report(code=-9), False, RunStatus.KILLED),
        (report(code=-9, why="wall"), False, RunStatus.TIMEOUT),
        (report(code=0, cpu_seconds=1.0), False, RunStatus.TIMEOUT),
        (report(code=-9, why="asked"), True, RunStatus.OUTPUT_LIMIT),
        (report(code=0), True, RunStatus.OUTPUT_LIMIT),
        (report(started=False, code=-9, why="wall"), False, RunStatus.SANDBOX_ERROR),
    ],
)
def test_verdict_follows_the_kernel(ended: Report, overflowed: bool, status: RunStatus) -> None:
    assert judge(ended, limits=Limits(cpu_seconds=1.0), overflowed=overflowed) is status


@given(chunks=st.lists(st.binary(max_size=40), max_size=20), limit=st.integers(0, 60))
def test_capture_depends_on_the_bytes_alone(chunks: list[bytes], limit: int) -> None:
    pieces, whole = Capture(limit), Capture(limit)
    for chunk in chunks:
        pieces.feed(chunk)
    data = b"".join(chunks)
    whole.feed(data)
    assert pieces.text() == whole.text()
    assert pieces.overflowed == whole.overflowed == (len(data) > STOP_FACTOR * limit)
    if len(data) <= limit:
        assert whole.text() == data.decode("utf-8", "replace")


@given(text=st.text(min_size=60, max_size=70), limit=st.integers(20, 59))
def test_capture_splits_no_character(text: str, limit: int) -> None:
    capture = Capture(limit)
    capture.feed(text.encode())
    head, _, tail = capture.text().partition("\n[... ")
    tail = tail.partition(" bytes cut ...]\n")[2]
    if not capture.overflowed:
        assert text.startswith(head)
        assert text.endswith(tail)


def test_threads_print_whole_lines(sandbox: LocalSandbox) -> None:
    code = """
import threading
def speak(i):
    for _ in range(20): print('thread', i)
threads = [threading.Thread(target=speak, args=(i,)) for i in range(10)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    lines = sandbox.run(code).stdout.splitlines()
    assert sorted(lines) == sorted(f"thread {i}" for i in range(10) for _ in range(20))


def test_close_does_not_wait_for_the_queue(folder: Path) -> None:
    opened = LocalSandbox(max_running=1)
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(opened.run, SLEEPER) for _ in range(3)]
        assert eventually(lambda: asleep(folder))
        opened.close()
        statuses = [run.result(20).status for run in runs]
    assert sorted(statuses) == [RunStatus.CANCELLED, RunStatus.SANDBOX_ERROR, RunStatus.SANDBOX_ERROR]
