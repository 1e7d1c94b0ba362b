"""The client against servers that are not ours: what it repeats, what it never repeats, and what it does not believe.

Each of them is a real HTTP server on loopback that misbehaves by a script; the foreign one runs the program that it is
sent in a plain interpreter, as SandboxFusion does.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.sandbox import Cancel, Limits, RunStatus, Sandbox, open_sandbox
from retool_env.sandbox.fusion.client import DEFAULT_URL, FusionSandbox
from retool_env.sandbox.fusion.metrics_text import render
from retool_env.sandbox.fusion.wire import RunCodeRequest
from retool_env.sandbox.registry import check_name

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Script:
    """What a server answers, request by request; ``None`` hangs up. Remembers what it was asked."""

    answers: list[Answer | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def __call__(self, body: dict[str, Any]) -> Answer | None:
        self.bodies.append(body)
        return self.answers.pop(0)


@contextlib.contextmanager
def answering(answer: Callable[[dict[str, Any]], Answer | None]) -> Iterator[str]:
    """A server whose ``/run_code`` calls ``answer``, and which has no other endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send((404, {}, b"{}"))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            reply = answer(json.loads(body))
            if reply is None:
                self.close_connection = True
            else:
                self._send(reply)

        def _send(self, reply: Answer) -> None:
            status, headers, content = reply
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ran(stdout: str = "1\n", stderr: str = "", code: int | None = 0, status: str = "Finished") -> Answer:
    result = {"status": status, "execution_time": 0.1, "return_code": code, "stdout": stdout, "stderr": stderr}
    overall = "Success" if status == "Finished" and code == 0 else "Failed"
    return 200, {}, json.dumps({"status": overall, "message": "", "run_result": result, "files": {}}).encode()


BROKEN: Answer = (200, {}, b'{"status": "SandboxError", "message": "no conda", "files": {}}')
ERROR_500: Answer = (500, {}, b"oops")
BUSY: Answer = (429, {"retry-after": "0"}, b"")


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    with answering(script) as url:
        script.url = url
        yield script


@pytest.mark.parametrize(
    "trouble",
    [[ERROR_500] * 4, [BROKEN, BROKEN], [None, None], [BUSY] * 6, [(503, {}, b""), None, BROKEN, BUSY]],
    ids=["500", "SandboxError", "hang-up", "429 more often than attempts", "mixed"],
)
def test_trouble_on_the_way_is_tried_again(script: Script, trouble: list[Answer | None]) -> None:
    script.answers = [*trouble, ran()]
    with FusionSandbox(script.url, deadline_seconds=60.0) as sandbox:
        result = sandbox.run("print(1)")
    assert (result.status, result.stdout) == (RunStatus.OK, "1\n")
    assert len(script.bodies) == len(trouble) + 1
    assert len({json.dumps(body) for body in script.bodies}) == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (ran(code=1, stderr="E\n"), RunStatus.ERROR),
        (ran(code=None, status="TimeLimitExceeded"), RunStatus.TIMEOUT),
        (ran(code=-9), RunStatus.KILLED),
        (ran(code=1, stderr="Traceback\nnumpy._core._exceptions._ArrayMemoryError: Unable\n"), RunStatus.MEMORY),
        (ran(code=1, stderr="MemoryError\nValueError: later\n"), RunStatus.ERROR),
    ],
)
def test_how_a_program_ended_is_never_asked_twice(script: Script, answer: Answer, status: RunStatus) -> None:
    script.answers = [answer]
    with FusionSandbox(script.url) as sandbox:
        assert sandbox.run("1").status is status
    assert len(script.bodies) == 1


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ([ERROR_500] * 3, "lost"),
        ([BROKEN] * 3, "lost"),
        ([None] * 3, "unavailable"),
        ([BUSY] * 3 + [BROKEN] * 3, "lost"),
    ],
)
def test_it_gives_up_after_its_attempts(script: Script, answers: list[Answer | None], fault: str) -> None:
    script.answers = list(answers)
    with FusionSandbox(script.url, max_attempts=3) as sandbox:
        result = sandbox.run("1")
    assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, fault)
    assert not script.answers


def test_the_server_names_the_moment(script: Script) -> None:
    script.answers = [(429, {"retry-after": "1"}, b""), ran()]
    begin = time.monotonic()
    with FusionSandbox(script.url) as sandbox:
        assert sandbox.run("1").status is RunStatus.OK
    assert time.monotonic() - begin >= 1.0


def test_a_moment_beyond_the_deadline_is_not_waited_for(script: Script) -> None:
    script.answers = [(503, {"retry-after": "3600"}, b"")]
    with FusionSandbox(script.url, deadline_seconds=5.0) as sandbox:
        assert sandbox.run("1").fault == "lost"


def test_the_total_deadline_ends_a_server_that_says_nothing() -> None:
    release = threading.Event()

    def never(_: dict[str, Any]) -> None:
        release.wait(60)

    with answering(never) as url, FusionSandbox(url, deadline_seconds=0.5) as sandbox:
        result = sandbox.run("1")
        assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "unavailable")
        assert "total deadline" in result.stderr
        release.set()


def test_nobody_there() -> None:
    with FusionSandbox("http://127.0.0.1:1", max_attempts=2) as sandbox:
        result = sandbox.run("1")
    assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "unavailable")


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_waiting_for_the_next_attempt_can_be_ended(script: Script, how: str) -> None:
    script.answers = [(503, {"retry-after": "3600"}, b"")]
    cancel = Cancel()
    with FusionSandbox(script.url, deadline_seconds=7200.0) as sandbox, ThreadPoolExecutor() as pool:
        run = pool.submit(sandbox.run, "1", cancel=cancel)
        while not script.bodies:
            time.sleep(0.01)
        cancel() if how == "cancel" else sandbox.close()
        assert run.result(30).status is RunStatus.CANCELLED


@pytest.mark.parametrize(
    "content", [b"<html>", b"[]", b"{}", b'{"status": "Fine"}', b'{"status": "Success", "message": ""}']
)
def test_nonsense_is_a_protocol_fault(script: Script, content: bytes) -> None:
    script.answers = [(200, {}, content)]
    with FusionSandbox(script.url) as sandbox:
        result = sandbox.run("1")
    assert (result.status, result.fault) == (RunStatus.SANDBOX_ERROR, "protocol")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((422, {}, b'{"detail": [{"loc": ["body", "language"], "msg": "unknown"}]}'), "status 422: language: unknown"),
        ((404, {}, b'{"detail": "Not Found"}'), "status 404: Not Found"),
        ((403, {}, b"no"), "status 403: no"),
        ((401, {}, b""), "wants a token"),
    ],
)
def test_a_refusal_is_the_users_mistake(script: Script, answer: Answer, message: str) -> None:
    script.answers = [answer]
    with FusionSandbox(script.url) as sandbox, pytest.raises(UsageError, match=message):
        sandbox.run("1")


ROOMY = Limits(output_bytes=1 << 20)


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (ran(stdout="x" * 219_264), "may have cut"),
        (ran(stderr="x" * 219_264, code=1), "may have cut"),
        (ran(stdout="x" * 160_910), "may have cut"),
        (ran(stdout="x" * 219_264, code=None, status="TimeLimitExceeded"), "may have hung on its output"),
        (ran(stdout="[DecodeError] 'utf-8' codec can't decode byte 0xff in position 0"), "was not UTF-8"),
    ],
)
def test_what_the_server_cut_in_silence_is_marked(script: Script, answer: Answer, note: str) -> None:
    script.answers = [answer]
    with FusionSandbox(script.url) as sandbox:
        result = sandbox.run("1", limits=ROOMY)
    assert result.truncated
    assert note in result.stdout + result.stderr


@pytest.mark.parametrize("stdout", ["x" * 100_000, "x" * 199_999 + "\n", "", "[decode"])
def test_whole_output_is_not_suspected(script: Script, stdout: str) -> None:
    script.answers = [ran(stdout=stdout)]
    with FusionSandbox(script.url) as sandbox:
        result = sandbox.run("1", limits=ROOMY)
    assert not result.truncated
    assert result.stdout == stdout


def test_output_beyond_our_own_limit_is_cut_here(script: Script) -> None:
    script.answers = [ran(stdout="é" * 500)]
    with FusionSandbox(script.url) as sandbox:
        result = sandbox.run("1", limits=Limits(output_bytes=100))
    assert result.truncated
    assert result.stdout == "é" * 25 + "\n[... 900 bytes cut ...]\n" + "é" * 25


@pytest.fixture(scope="module")
def foreign() -> Iterator[FusionSandbox]:
    """A server that runs what it is sent as ``python FILE``."""

    def execute(body: dict[str, Any]) -> Answer:
        done = subprocess.run(
            [sys.executable, "-c", body["code"]],
            input=body.get("stdin", ""),
            capture_output=True,
            text=True,
            check=False,
        )
        return ran(stdout=done.stdout, stderr=done.stderr, code=done.returncode)

    with answering(execute) as url, FusionSandbox(url) as sandbox:
        yield sandbox


NOTEBOOKS = {
    "value": ("x = 6\nx * 7", "42\n"),
    "text as it is": ("'a\\nb'", "a\nb\n"),
    "None": ("None", ""),
    "print": ("print(1)", "1\n"),
    "assignment": ("x = 1", ""),
    "inside of a block": ("if True:\n    1", ""),
    "over several lines": ("(1 +\n 2) # three", "3\n"),
    "comment behind": ("7\n# end", "7\n"),
    "semicolon": ("x = 1; x", "1\n"),
    "empty": ("", ""),
    "future": ("from __future__ import annotations\ndef f(x: y): ...\nf.__annotations__", "{'x': 'y'}\n"),
    "own module": ("import __main__\nx = 1\n(__name__, __main__.x)", "('__main__', 1)\n"),
    "no names of ours": ("sorted(n for n in globals() if n[0] != '_')", "[]\n"),
    "reads input": ("input()", "word\n"),
}


@pytest.mark.parametrize(("code", "stdout"), NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_a_notebook_on_a_server_that_has_only_scripts(foreign: FusionSandbox, code: str, stdout: str) -> None:
    result = foreign.run(code, mode="notebook", stdin="word\n")
    assert (result.status, result.stdout, result.stderr) == (RunStatus.OK, stdout, "")


@pytest.mark.parametrize(
    ("code", "stderr"),
    [
        ("\n\n1 / 0", '  File "<code>", line 3, in <module>\n    1 / 0'),
        ("def f():\n    raise KeyError('k')\nf()", "line 2, in f\n    raise KeyError('k')\nKeyError: 'k'\n"),
        ("1 +", '  File "<code>", line 1\n    1 +\n'),
        ("raise MemoryError", "MemoryError\n"),
    ],
)
def test_its_tracebacks_show_the_program_only(foreign: FusionSandbox, code: str, stderr: str) -> None:
    result = foreign.run(code, mode="notebook")
    assert result.exit_code == 1
    assert stderr in result.stderr
    assert "retool" not in result.stderr and "<string>" not in result.stderr


def test_its_exit_code(foreign: FusionSandbox) -> None:
    assert foreign.run("import sys\nsys.exit(7)", mode="notebook").exit_code == 7


@settings(max_examples=15, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_shown(foreign: FusionSandbox, value: object) -> None:
    result = foreign.run(f"{value!a}", mode="notebook")
    shown = value if isinstance(value, str) else ascii(value)
    expected = "" if value is None else f"{value}\n" if isinstance(value, str) else f"{value!r}\n"
    one, other = (text.replace("\r\n", "\n").replace("\r", "\n") for text in (result.stdout, expected))
    assert one == other, shown  # a foreign server may make every line end its own


def test_seeds(foreign: FusionSandbox) -> None:
    code = "import random, numpy\nrandom.random(), int(numpy.random.randint(1 << 30))"
    first, again, other = (foreign.run(code, mode="notebook", seed=seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_a_script_that_needs_no_seed_travels_as_it_is(script: Script) -> None:
    script.answers = [ran(), ran()]
    code = "print('é')\r\n# end"
    with FusionSandbox(script.url) as sandbox:
        sandbox.run(code, seed=3, limits=Limits(wall_seconds=7.0, memory_mb=99), files={"a": b"\xff"}, fetch=["b"])
        sandbox.run("import random", seed=3)
    assert script.bodies[0] == {
        "code": code, "language": "python", "stdin": "", "files": {"a": "/w=="}, "fetch_files": ["b"],
        "compile_timeout": 10.0, "run_timeout": 7.0, "memory_limit_MB": 99,
    }  # fmt: skip
    assert script.bodies[1]["code"] != "import random"


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True), st.binary()),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_files_and_text_survive_the_wire(files: dict[str, bytes], text: str) -> None:
    request = RunCodeRequest(code=text, language="python", stdin=text, files=dict(files))
    again = RunCodeRequest.model_validate_json(request.model_dump_json(by_alias=True))
    assert again == request
    assert again.files == files


def test_it_is_a_sandbox_without_sessions() -> None:
    with open_sandbox("fusion:http://localhost:9") as sandbox:
        assert isinstance(sandbox, Sandbox)
        assert isinstance(sandbox, FusionSandbox)
        assert sandbox.url == "http://localhost:9"
        with pytest.raises(UsageError, match="use 'fork'"):
            sandbox.open_session()
        with pytest.raises(TypeError, match="send its name"):
            pickle.dumps(sandbox)
        with pytest.raises(UsageError, match="relative"):
            sandbox.run("", files={"../x": b""})


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANDBOX_FUSION_ENDPOINT", raising=False)
    assert FusionSandbox().url == DEFAULT_URL
    assert FusionSandbox("http://host:1/run_code").url == "http://host:1"
    for name, message in [
        ("fusoin", "did you mean 'fusion'"),
        ("fork:http://x", "takes no address"),
    ]:
        with pytest.raises(UsageError, match=message):
            check_name(name)
    for url in ("host:8080", "ftp://host", "http://", "fusion"):
        with pytest.raises(UsageError, match="sandbox URL"):
            FusionSandbox(url)


def test_metrics_as_text() -> None:
    assert render("p", {"waiting": 2, "runs": {"ok": 3, 'a"b': 1}, "done_total": 1.5, "note": "x"}) == (
        "# TYPE p_waiting gauge\np_waiting 2\n"
        '# TYPE p_runs_total counter\np_runs_total{status="ok"} 3\np_runs_total{status="a\\"b"} 1\n'
        "# TYPE p_done_total counter\np_done_total 1.5\n"
    )


def test_default_memory_limit_stays_at_home(script: Script) -> None:
    """There it counts the address space of the whole interpreter, and numpy would not load."""
    script.answers = [ran()]
    with FusionSandbox(script.url) as sandbox:
        sandbox.run("print(1)")
    assert script.bodies[0]["memory_limit_MB"] == -1
