"""Our SandboxFusion server against the protocol: raw HTTP first, then the same cases through our client.

The cases are written from the protocol's tables and from the measured defects of the original server. The client meets
each twice: knowing that the server is ours, and taking it for a foreign one.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env.errors import UsageError
from retool_env.sandbox import Limits, RunStatus
from retool_env.sandbox.fusion.client import FusionSandbox
from tests.retool_env.fusion_server import Server, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(120)"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program: the request's fields, and what both sides must say of it."""

    code: str
    more: dict[str, Any] = field(default_factory=dict)
    status: str = "Success"
    command: str = "Finished"
    return_code: int | None = 0
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    ours: RunStatus = RunStatus.OK


CASES = {
    "prints": Case(code="print(6 * 7)", stdout="42\n"),
    "is a script: no echo": Case(code="6 * 7"),
    "is __main__": Case(code="print(__name__)", stdout="__main__\n"),
    "standard error": Case(code="import sys\nprint('no', file=sys.stderr)", stderr="no\n"),
    "raises": Case(
        code="1 / 0",
        status="Failed",
        return_code=1,
        stderr="ZeroDivisionError: division by zero\n",
        ours=RunStatus.ERROR,
    ),
    "syntax error": Case(
        code="1 +", status="Failed", return_code=1, stderr="SyntaxError: invalid syntax\n", ours=RunStatus.ERROR
    ),
    "exit code": Case(code="import sys\nsys.exit(3)", status="Failed", return_code=3, ours=RunStatus.ERROR),
    "exit code 0": Case(code="print(1)\nraise SystemExit", stdout="1\n"),
    "signal": Case(code="import ctypes\nctypes.string_at(0)", status="Failed", return_code=-11, ours=RunStatus.KILLED),
    "time limit, partial output": Case(
        code=SLEEP,
        more={"run_timeout": 0.5},
        status="Failed",
        command="TimeLimitExceeded",
        return_code=None,
        stdout="begun\n",
        ours=RunStatus.TIMEOUT,
    ),
    "time limit, busy": Case(
        code="print(1, flush=True)\nwhile True: pass",
        more={"run_timeout": 0.5},
        status="Failed",
        command="TimeLimitExceeded",
        return_code=None,
        stdout="1\n",
        ours=RunStatus.TIMEOUT,
    ),
    "a limit too small to start is raised": Case(
        code="while True: pass",
        more={"run_timeout": 0},
        status="Failed",
        command="TimeLimitExceeded",
        return_code=None,
        ours=RunStatus.TIMEOUT,
    ),
    "memory limit": Case(
        code="x = bytearray(900 << 20)",
        more={"memory_limit_MB": 256},
        status="Failed",
        return_code=1,
        stderr="MemoryError\n",
        ours=RunStatus.MEMORY,
    ),
    "memory within the limit": Case(
        code="x = bytearray(100 << 20)\nprint(len(x))", more={"memory_limit_MB": 256}, stdout="104857600\n"
    ),
    "stdin": Case(code="print(input()[::-1], input())", more={"stdin": "abc\nä\n"}, stdout="cba ä\n"),
    "no stdin": Case(code="import sys\nprint(repr(sys.stdin.read()))", stdout="''\n"),
    "files in": Case(
        code="print(open('data.txt').read(), open('a/b/c.bin', 'rb').read())",
        more={"files": {"data.txt": b64("é".encode()), "a/b/c.bin": b64(b"\x00\xff")}},
        stdout="é b'\\x00\\xff'\n",
    ),
    "files out": Case(
        code="import os\nos.makedirs('x/y')\nopen('x/y/z', 'wb').write(b'\\x00\\xff')",
        more={"fetch_files": ["x/y/z", "missing", "x"]},
        files={"x/y/z": b"\x00\xff"},
    ),
    "files both ways, after a failure": Case(
        code="open('f', 'a').write('!')\n1 / 0",
        more={"files": {"f": b64(b"1")}, "fetch_files": ["f"]},
        status="Failed",
        return_code=1,
        stderr="ZeroDivisionError: division by zero\n",
        files={"f": b"1!"},
        ours=RunStatus.ERROR,
    ),
    "a file that is too large to come back": Case(
        code="open('f', 'wb').write(bytes(40 << 20))", more={"fetch_files": ["f"]}, truncated=True
    ),
    "a null file is none": Case(
        code="import os\nprint(os.path.exists('f'))", more={"files": {"f": None}}, stdout="False\n"
    ),
    "one bad byte costs one character": Case(
        code="import sys\nsys.stdout.buffer.write(b'a\\xffb\\n')", stdout="a\ufffdb\n"
    ),
    "200,000 characters": Case(code="print('x' * 199_999)", stdout="x" * 199_999 + "\n"),
    "300,000 characters": Case(code="print('x' * 299_999)", stdout="x" * 299_999 + "\n"),
    "1,500,000 characters": Case(code="print('x' * 1_499_999)", stdout="x" * 1_499_999 + "\n"),
    "compile_timeout means nothing": Case(code="print(1)", more={"compile_timeout": 0.001}, stdout="1\n"),
    "unknown fields are ignored": Case(code="print(1)", more={"colour": "red"}, stdout="1\n"),
}

MISTAKES: dict[str, tuple[object, str]] = {
    "no code": ({"language": "python"}, "code"),
    "no language": ({"code": ""}, "language"),
    "unknown language": ({"code": "", "language": "pythn"}, "language"),
    "language that the original has and we have not": ({"code": "", "language": "cpp"}, "language"),
    "code is a number": ({"code": 1, "language": "python"}, "code"),
    "timeout is text": ({"code": "", "language": "python", "run_timeout": "soon"}, "run_timeout"),
    "timeout beyond the server's": ({"code": "", "language": "python", "run_timeout": 601}, "run_timeout"),
    "memory beyond the server's": ({"code": "", "language": "python", "memory_limit_MB": 1 << 20}, "memory_limit_MB"),
    "file outside": ({"code": "", "language": "python", "files": {"../x": ""}}, "files"),
    "absolute file": ({"code": "", "language": "python", "files": {"/tmp/x": ""}}, "files"),
    "file that is another's folder": ({"code": "", "language": "python", "files": {"a/b": "", "a": ""}}, "files"),
    "file name that no file system has": ({"code": "", "language": "python", "files": {"x" * 300: ""}}, "files"),
    "file is no base64": ({"code": "", "language": "python", "files": {"x": "!!"}}, "files"),
    "fetch outside": ({"code": "", "language": "python", "fetch_files": ["a/../../x"]}, "fetch_files"),
    "fetch absolute": ({"code": "", "language": "python", "fetch_files": ["/etc/passwd"]}, "fetch_files"),
    "body is a list": ([], ""),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--max-running", "2") as server:
        yield server


@pytest.fixture(scope="module")
def own(server: Server) -> Iterator[FusionSandbox]:
    with FusionSandbox(server.url) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def foreign(server: Server) -> Iterator[FusionSandbox]:
    with FusionSandbox(server.url, plain=True) as sandbox:
        yield sandbox


class TestProtocol:
    """Raw HTTP."""

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_run_code(self, server: Server, case: Case) -> None:
        response = server.post("/run_code", {"code": case.code, "language": "python", **case.more})
        assert response.status_code == 200
        answer = response.json()
        assert set(answer) == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}
        assert answer["status"] == case.status
        assert answer["message"] == ""
        assert answer["compile_result"] is None
        result = answer["run_result"]
        assert set(result) == {"status", "execution_time", "return_code", "stdout", "stderr", "truncated"}
        assert (result["status"], result["return_code"]) == (case.command, case.return_code)
        assert result["execution_time"] > 0
        assert result["stdout"] == case.stdout
        assert result["stderr"].endswith(case.stderr)
        assert bool(result["stderr"]) == bool(case.stderr)
        assert result["truncated"] is case.truncated
        assert {name: base64.b64decode(data) for name, data in answer["files"].items()} == case.files

    @pytest.mark.parametrize(("body", "name"), MISTAKES.values(), ids=MISTAKES)
    def test_mistakes_are_422_and_named(self, server: Server, body: object, name: str) -> None:
        response = server.post("/run_code", body)
        assert response.status_code == 422
        detail = response.json()["detail"]
        assert isinstance(detail, list)
        assert all({"type", "loc", "msg"} <= set(entry) for entry in detail)
        assert ["body", name] in [entry["loc"][:2] for entry in detail] or not name

    def test_a_body_that_is_no_json_is_422(self, server: Server) -> None:
        response = httpx.post(f"{server.url}/run_code", content=b"{", headers={"content-type": "application/json"})
        assert response.status_code == 422
        assert response.json()["detail"][0]["type"] == "json_invalid"
        response = httpx.post(f"{server.url}/run_code", content=b"{}", headers={"content-type": "text/plain"})
        assert response.status_code == 422

    @settings(max_examples=40, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(
                ["code", "language", "stdin", "files", "fetch_files", "run_timeout", "memory_limit_MB", "retool"]
            ),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                max_leaves=5,
            ),
        )
    )
    def test_no_body_brings_the_server_down(self, server: Server, body: dict[str, object]) -> None:
        body.pop("run_timeout", None) if body.get("language") == "python" else None
        assert server.post("/run_code", body).status_code in (200, 422)

    def test_ping(self, server: Server) -> None:
        response = server.get("/v1/ping")
        assert (response.status_code, response.text) == (200, '"pong"')

    def test_metrics_count_answers(self, server: Server) -> None:
        server.post("/run_code", {"code": "", "language": "python"})
        text = server.get("/metrics").text
        assert "# TYPE retool_server_answers_total counter" in text
        count = next(line for line in text.splitlines() if line.startswith('retool_server_answers_total{status="200"}'))
        assert float(count.split()[1]) >= 1

    def test_what_is_not_there(self, server: Server) -> None:
        assert server.get("/run_code").status_code == 405
        assert server.get("/submit").status_code == 404

    def test_a_web_page_may_not_ask(self, server: Server) -> None:
        body = {"code": "", "language": "python"}
        assert server.post("/run_code", body, headers={"origin": "https://example.com"}).status_code == 403

    def test_a_cut_is_marked(self, server: Server) -> None:
        answer = server.post("/run_code", {"code": "print('x' * 5_000_000)", "language": "python"}).json()
        assert answer["status"] == "Success"
        assert answer["run_result"]["truncated"] is True
        assert "bytes cut" in answer["run_result"]["stdout"]
        assert len(answer["run_result"]["stdout"]) > 2_000_000


class TestClient:
    """The same cases through our client; a foreign server's output limit is smaller, so long outputs differ there."""

    @pytest.mark.parametrize("kind", ["own", "foreign"])
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES)
    def test_run(self, kind: str, case: Case, request: pytest.FixtureRequest) -> None:
        sandbox: FusionSandbox = request.getfixturevalue(kind)
        seconds = max(case.more.get("run_timeout", 10.0), 0.05)
        memory_mb = case.more.get("memory_limit_MB", 512)
        limits = Limits(cpu_seconds=seconds, wall_seconds=seconds, memory_mb=memory_mb, output_bytes=2 << 20)
        files = {name: base64.b64decode(data) for name, data in case.more.get("files", {}).items() if data is not None}
        result = sandbox.run(
            case.code,
            limits=limits,
            stdin=case.more.get("stdin", ""),
            files=files,
            fetch=case.more.get("fetch_files", ()),
        )
        assert result.status is case.ours
        assert result.stderr.endswith(case.stderr)
        assert (result.exit_code if result.exit_code is not None else -(result.signal or 0)) == (
            case.return_code or 0
        ) or (case.ours is RunStatus.TIMEOUT)
        assert dict(result.files) == case.files
        if kind == "own" or len(case.stdout) <= 200_000:
            assert result.stdout == case.stdout
            assert result.truncated is case.truncated
        else:
            assert result.truncated
            assert result.stdout.startswith(case.stdout)

    @pytest.mark.parametrize("kind", ["own", "foreign"])
    def test_notebook(self, kind: str, request: pytest.FixtureRequest) -> None:
        sandbox: FusionSandbox = request.getfixturevalue(kind)
        assert sandbox.run("x = 6\nx * 7", mode="notebook").stdout == "42\n"
        assert sandbox.run("'text'", mode="notebook").stdout == "text\n"
        assert sandbox.run("print(1)", mode="notebook").stdout == "1\n"
        failed = sandbox.run("def f():\n    return 1 / 0\n\nf()", mode="notebook")
        assert failed.status is RunStatus.ERROR
        frames = [line.strip() for line in failed.stderr.splitlines() if "File " in line]
        assert [frame.split(", ")[1:] for frame in frames] == [["line 4", "in <module>"], ["line 2", "in f"]]

    @pytest.mark.parametrize("kind", ["own", "foreign"])
    def test_seed(self, kind: str, request: pytest.FixtureRequest) -> None:
        import random

        sandbox: FusionSandbox = request.getfixturevalue(kind)
        result = sandbox.run("import random\nprint(random.random())", seed=7)
        assert result.stdout == f"{random.Random(7).random()}\n"

    @pytest.mark.parametrize("kind", ["own", "foreign"])
    def test_half_a_surrogate_pair_fails_the_program_and_not_the_client(
        self, kind: str, request: pytest.FixtureRequest
    ) -> None:
        sandbox: FusionSandbox = request.getfixturevalue(kind)
        assert sandbox.run("print('\ud800')").status is RunStatus.ERROR

    def test_processor_time_decides_at_our_server(self, own: FusionSandbox) -> None:
        result = own.run("while True: pass", limits=Limits(cpu_seconds=0.2, wall_seconds=60.0))
        assert result.status is RunStatus.TIMEOUT
        assert result.wall_seconds < 30

    def test_refused_limits_are_the_users_mistake(self, own: FusionSandbox) -> None:
        with pytest.raises(UsageError, match=r"422: run_timeout: .*600"):
            own.run("", limits=Limits(wall_seconds=1000.0))
        with pytest.raises(UsageError, match="sub-processes"):
            own.run("", limits=Limits(subprocesses=True))

    def test_health(self, own: FusionSandbox) -> None:
        assert own.health().status is RunStatus.OK
