"""Sessions: state goes on from cell to cell, and a bad cell takes nothing with it."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from retool_env.errors import UsageError
from retool_env.sandbox import Cancel, Limits, LocalSandbox, RunStatus, Session
from tests.retool_env.sandbox_tools import eventually, family, skip_without_namespaces, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")


@pytest.fixture(autouse=True, scope="module")
def _needs_namespaces() -> None:
    skip_without_namespaces()


LIMITS = Limits(cpu_seconds=0.4, wall_seconds=2.0, memory_mb=256)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    with LocalSandbox(image="light", spares=0) as opened:
        yield opened


@pytest.fixture
def session(sandbox: LocalSandbox) -> Iterator[Session]:
    with sandbox.open_session(limits=LIMITS) as opened:
        yield opened


def test_state_goes_on(session: Session) -> None:
    assert session.run("import math\nx = 20\ndef double(y): return 2 * y").status is RunStatus.OK
    assert session.run("double(x) + 2").stdout == "42\n"
    assert session.run("x += 1; print(x, math.floor(2.5))").stdout == "21 2\n"


def test_sessions_share_nothing(sandbox: LocalSandbox) -> None:
    with sandbox.open_session() as first, sandbox.open_session() as second:
        first.run("x = 1\nopen('mine', 'w').close()")
        assert second.run("import os; print(os.listdir(), 'x' in globals())").stdout == "[] False\n"


BAD_CELLS = [
    ("x = 0\nwhile True: pass", RunStatus.TIMEOUT),
    ("x = 0\nimport time; time.sleep(60)", RunStatus.TIMEOUT),
    ("x = 0\nimport os; os._exit(0)", RunStatus.OK),
    ("x = 0\nimport os; os._exit(3)", RunStatus.ERROR),
    ("x = 0\nimport os; os.kill(os.getpid(), 9)", RunStatus.KILLED),
    ("x = 0\nimport os; os.abort()", RunStatus.KILLED),
    ("x = 0\nimport ctypes; ctypes.string_at(0)", RunStatus.KILLED),
    ("x = 0\nwhile True: print('x' * 10000)", RunStatus.OUTPUT_LIMIT),
]


@pytest.mark.parametrize(("code", "status"), BAD_CELLS, ids=[code[6:40] for code, _ in BAD_CELLS])
def test_bad_cell_is_rolled_back(session: Session, code: str, status: RunStatus) -> None:
    session.run("x = 7")
    assert session.run(code).status is status
    assert session.run("x").stdout == "7\n"
    assert session.run(code).status is status
    assert session.run("x + 1").stdout == "8\n"


def test_first_cell_may_be_bad(session: Session) -> None:
    assert session.run("while True: pass").status is RunStatus.TIMEOUT
    assert session.run("1 + 1").stdout == "2\n"


def test_exceptions_keep_what_was_done_before_them(session: Session) -> None:
    result = session.run("y = 1\n1 / 0\ny = 2")
    assert result.status is RunStatus.ERROR
    assert result.stderr.splitlines()[1] == '  File "<code>", line 2, in <module>'
    assert session.run("y").stdout == "1\n"
    assert session.run("exit(4)").exit_code == 4
    assert session.run("raise MemoryError").status is RunStatus.MEMORY
    assert session.run("y").stdout == "1\n"


def test_memory_of_the_session_is_limited(session: Session) -> None:
    assert session.run("a = bytearray(150 << 20)").status is RunStatus.OK
    assert session.run("b = bytearray(150 << 20)").status is RunStatus.MEMORY
    assert session.run("del a; b = bytearray(150 << 20); len(b)").stdout == f"{150 << 20}\n"


def test_input_files_and_partial_output(session: Session) -> None:
    assert session.run("print(input())", stdin="hello").stdout == "hello\n"
    assert session.run("input()").status is RunStatus.ERROR
    result = session.run("open('b', 'wb').write(open('a', 'rb').read() * 2)", files={"a": b"12"}, fetch=["b", "c"])
    assert result.files == {"b": b"1212"}
    assert session.run("print(open('b').read())\nwhile True: pass").stdout == "1212\n"
    with pytest.raises(UsageError, match="relative path"):
        session.run("", files={"/etc/x": b""})


def test_open_files_and_modules_survive(session: Session) -> None:
    session.run("f = open('log', 'w+'); f.write('one\\n'); f.flush()")
    session.run("f.write('two\\n'); f.flush()")
    assert session.run("f.seek(0); print(f.read(), end='')").stdout == "one\ntwo\n"


def test_processor_time_is_counted_for_each_cell(session: Session) -> None:
    for _ in range(4):
        result = session.run("import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass")
        assert result.status is RunStatus.OK
        assert 0.15 < result.cpu_seconds < 0.4


def test_cancelling_a_cell_keeps_the_session(session: Session) -> None:
    session.run("x = 3")
    cancel = Cancel()
    timer = threading.Timer(0.2, cancel)
    timer.start()
    assert session.run("import time; time.sleep(60)", cancel=cancel).status is RunStatus.CANCELLED
    assert session.run("x").stdout == "3\n"


def test_a_cell_that_lies_harms_only_its_own_session(sandbox: LocalSandbox) -> None:
    forgery = """
import os
for fd in range(3, 40):
    for text in (b'E{"code": 0, "max_rss_mb": 0}', b'D{"code": 0}', b'!broken', b'+', b'M', b'', b'{}'):
        try: os.write(fd, text)
        except OSError: pass
"""
    with sandbox.open_session(limits=LIMITS) as liar:
        for _ in range(3):
            assert liar.run(forgery).status in set(RunStatus)
    assert sandbox.run("print('fine')").stdout == "fine\n"


def test_closing_ends_every_process(sandbox: LocalSandbox) -> None:
    with temporary_folder() as folder, LocalSandbox(image="light", spares=0) as own:
        session = own.open_session(limits=Limits(subprocesses=True))
        session.run("import os\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(600)")
        assert len(family(folder)) >= 4
        session.close()
        assert eventually(lambda: len(family(folder)) == 2)
        result = session.run("1")
        assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "closed")


def test_lost_session_says_so(sandbox: LocalSandbox) -> None:
    with temporary_folder() as folder, LocalSandbox(image="light", spares=0) as own:
        session = own.open_session()
        session.run("x = 1")
        for pid in family(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        assert session.run("x").fault == "lost"
        assert session.run("x").fault == "closed"
        with own.open_session() as fresh:
            result = fresh.run("5")
            assert result.stdout == "5\n", result


def test_folder_stays_empty(sandbox: LocalSandbox) -> None:
    with temporary_folder() as folder, LocalSandbox(image="light", spares=0) as own, own.open_session() as session:
        session.run("open('x', 'w').write('y')")
        assert list(Path(folder).iterdir()) == []
