"""What a program experiences in the sandbox and what its caller is told: every test runs real processes.

Lives and deaths of the processes around it are in ``test_sandbox_lifecycle``, the queue in ``test_sandbox_service``,
sessions in ``test_sandbox_session``, walls in ``test_sandbox_box`` and ``test_hostile``.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.sandbox import (
    Limits,
    LocalSandbox,
    RunStatus,
    Sandbox,
    open_sandbox,
    registry,
    release,
    shared_sandbox,
)
from retool_env.sandbox.box.wire import Report
from retool_env.sandbox.capture import Capture
from retool_env.sandbox.exchange import judge

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

BRIEF = Limits(cpu_seconds=0.3, wall_seconds=20.0, memory_mb=128)
ROOMY = Limits(cpu_seconds=10.0, wall_seconds=20.0, memory_mb=128)
SLEEPER = "import time\ntime.sleep(600)"


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
    ("import signal; signal.raise_signal(9)", RunStatus.KILLED, None),
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


def test_processor_limit_is_finer_than_a_second(sandbox: LocalSandbox) -> None:
    result = sandbox.run("while True: pass", limits=Limits(cpu_seconds=0.2))
    assert result.status is RunStatus.TIMEOUT
    assert 0.2 <= result.cpu_seconds < 0.7


def test_processor_time_of_children_counts(sandbox: LocalSandbox) -> None:
    code = "import os\nif os.fork() == 0:\n    for _ in range(10**7): pass\n    os._exit(0)\nos.wait()"
    assert sandbox.run(code, limits=Limits(cpu_seconds=0.2, subprocesses=True)).status is RunStatus.TIMEOUT


def test_output_before_a_timeout_is_kept(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print('first')\nwhile True: pass", limits=Limits(cpu_seconds=0.1))
    assert (result.status, result.stdout) == (RunStatus.TIMEOUT, "first\n")


def test_long_output_keeps_head_and_tail(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print('head' + 'x' * 2000 + 'tail')", limits=Limits(output_bytes=1000))
    assert result.status is RunStatus.OK
    assert result.stdout.startswith("headx")
    assert result.stdout.endswith("xtail\n")
    assert "\n[... 1009 bytes cut ...]\n" in result.stdout
    assert result.truncated


def test_short_output_is_whole(sandbox: LocalSandbox) -> None:
    result = sandbox.run("print('x' * 999)", limits=Limits(output_bytes=1000))
    assert (result.stdout, result.truncated) == ("x" * 999 + "\n", False)


def test_flood_shows_the_same_text_every_time(sandbox: LocalSandbox) -> None:
    code = "import itertools\nfor i in itertools.count(): print(i)"
    results = {sandbox.run(code, limits=Limits(output_bytes=1000, stop_bytes=100_000)).stdout for _ in range(3)}
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


def test_callers_environment_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS_SECRET", "hush")
    with LocalSandbox() as opened:
        result = opened.run("import os; print(dict(os.environ))")
    assert result.status is RunStatus.OK
    assert "hush" not in result.stdout
    assert "RETOOL" not in result.stdout


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


def test_files_go_in_and_come_back(sandbox: LocalSandbox) -> None:
    code = "data = open('in/a.bin', 'rb').read()\nopen('out.bin', 'wb').write(data[::-1])\nprint(len(data))"
    payload = bytes(range(256)) * 300
    result = sandbox.run(code, files={"in/a.bin": payload}, fetch=["out.bin", "missing", "in"])
    assert result.status is RunStatus.OK
    assert result.files == {"out.bin": payload[::-1]}


def test_files_that_are_too_large_to_come_back_are_told(sandbox: LocalSandbox) -> None:
    code = "for name, mb in dict(a=20, b=13, c=12).items(): open(name, 'wb').write(bytes(mb << 20))"
    result = sandbox.run(code, fetch=["a", "b", "missing", "c"])
    assert (result.status, set(result.files), result.truncated) == (RunStatus.OK, {"a", "c"}, True)
    assert not sandbox.run(code, fetch=["a", "c", "missing"]).truncated


def test_files_come_back_after_a_bad_end(sandbox: LocalSandbox) -> None:
    code = "open('kept', 'w').write('x')\nimport os; os._exit(3)"
    result = sandbox.run(code, fetch=["kept"])
    assert (result.status, result.exit_code, result.files) == (RunStatus.ERROR, 3, {"kept": b"x"})
    result = sandbox.run("open('kept', 'w').write('y')\nwhile True: pass", limits=BRIEF, fetch=["kept"])
    assert (result.status, result.files) == (RunStatus.TIMEOUT, {"kept": b"y"})


def test_reading_files_back_changes_nothing_else(sandbox: LocalSandbox) -> None:
    for code, status, exit_code in STATUSES:
        if status is not RunStatus.TIMEOUT:
            result = sandbox.run(code, limits=ROOMY, fetch=["none"])
            assert (result.status, result.exit_code) == (status, exit_code), (code, result)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", "", "nul\0"])
def test_paths_out_of_the_directory_are_refused(sandbox: LocalSandbox, name: str) -> None:
    with pytest.raises(UsageError, match="relative path"):
        sandbox.run("", files={name: b""})
    with pytest.raises(UsageError, match="relative path"):
        sandbox.run("", fetch=[name])


def test_links_are_not_followed_on_the_way_back(sandbox: LocalSandbox) -> None:
    code = "import os\nos.symlink('/etc/passwd', 'a')\nos.mkfifo('b')\nos.mkdir('c')\nopen('d', 'w').write('1')"
    assert set(sandbox.run(code, fetch=["a", "b", "c", "d"]).files) <= {"d"}


def test_image_follows_what_the_program_mentions(sandbox: LocalSandbox) -> None:
    pytest.importorskip("numpy")
    assert sandbox.run("import sys; print('nump' + 'y' in sys.modules)").stdout == "False\n"
    assert sandbox.run("import sys; print('numpy' in sys.modules)").stdout == "True\n"


def test_numpy_is_seeded(sandbox: LocalSandbox) -> None:
    pytest.importorskip("numpy")
    code = "import numpy\nprint(numpy.random.rand())"
    first, again, other = (sandbox.run(code, seed=seed) for seed in (1, 1, 2))
    assert first.status is RunStatus.OK
    assert first.stdout == again.stdout != other.stdout


def test_an_instance_is_not_pickled(sandbox: LocalSandbox) -> None:
    with pytest.raises(TypeError, match="open_sandbox"):
        pickle.dumps(sandbox)


def test_local_sandbox_fulfils_the_contract(sandbox: LocalSandbox) -> None:
    assert isinstance(sandbox, Sandbox)
    assert sandbox.health().stdout == "ok\n"


def test_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'fork'"):
        open_sandbox("fokr")


def test_nonsense_sizes_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        LocalSandbox(workers=0)


def test_shared_sandbox_lives_until_its_last_user_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Environments that other tests left open are users too.
    monkeypatch.setattr(registry, "_shared", {})
    monkeypatch.setattr(registry, "_users", {})
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
        "started": True, "fault": "", "memory": False, "code": 0, "why": "", "cpu_seconds": 0.1, "wall_seconds": 0.1,
        "max_rss_mb": 1.0,
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
        (report(code=-9, why="asked"), False, RunStatus.CANCELLED),
        (report(started=False, code=-9, why="asked"), False, RunStatus.CANCELLED),
        (report(started=False, code=-9, why="wall"), False, RunStatus.SANDBOX_ERROR),
    ],
)
def test_verdict_follows_the_kernel(ended: Report, overflowed: bool, status: RunStatus) -> None:
    assert judge(ended, limits=Limits(cpu_seconds=1.0), overflowed=overflowed) is status


@given(chunks=st.lists(st.binary(max_size=40), max_size=20), keep=st.integers(1, 60), stop=st.integers(1, 200))
def test_capture_depends_on_the_bytes_alone(chunks: list[bytes], keep: int, stop: int) -> None:
    pieces, whole = Capture(keep=keep, stop=stop), Capture(keep=keep, stop=stop)
    for chunk in chunks:
        pieces.feed(chunk)
    data = b"".join(chunks)
    whole.feed(data)
    assert pieces.text() == whole.text()
    assert pieces.overflowed == whole.overflowed == (len(data) > max(keep, stop))
    seen = data[: max(keep, stop)]
    assert pieces.cut == max(0, len(seen) - keep)
    if len(data) <= keep:
        assert whole.text() == data.decode("utf-8", "replace")


@given(text=st.text(min_size=60, max_size=70), keep=st.integers(20, 59))
def test_capture_splits_no_character(text: str, keep: int) -> None:
    capture = Capture(keep=keep, stop=10_000)
    capture.feed(text.encode())
    head, _, tail = capture.text().partition("\n[... ")
    tail = tail.partition(" bytes cut ...]\n")[2]
    assert text.startswith(head)
    assert text.endswith(tail)


@given(size=st.integers(0, 5000), piece=st.integers(1, 700))
def test_capture_keeps_head_and_tail_of_a_long_stream(size: int, piece: int) -> None:
    data = bytes(33 + i % 90 for i in range(size))
    capture = Capture(keep=100, stop=10_000)
    for start in range(0, size, piece):
        capture.feed(data[start : start + piece])
    if size > 100:
        expected = f"{data[:50].decode()}\n[... {size - 100} bytes cut ...]\n{data[-50:].decode()}"
        assert capture.text() == expected
    else:
        assert capture.text() == data.decode()


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
