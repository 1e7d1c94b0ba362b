"""Our SandboxFusion server beyond single programs: notebooks, full queues, clients that go, tokens, sizes, its end."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from retool_env.errors import UsageError
from retool_env.sandbox import Cancel, RunStatus
from retool_env.sandbox.fusion.client import FusionSandbox
from tests.retool_env.fusion_server import Server, serving
from tests.retool_env.sandbox_tools import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(120)"
BODY = {"code": "print(1)", "language": "python"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--max-running", "2") as server:
        yield server


@pytest.fixture(scope="module")
def narrow() -> Iterator[Server]:
    """One place, and one in the queue."""
    with serving("--max-running", "1", "--max-queue", "1") as server:
        yield server


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving("--token-env", "SOME_TOKEN", "--max-body-mb", "1", env={"SOME_TOKEN": "first second"}) as server:
        yield server


class TestJupyter:
    def run(self, server: Server, *cells: str, **more: object) -> dict[str, Any]:
        response = server.post("/run_jupyter", {"cells": list(cells), **more})
        assert response.status_code == 200
        answer: dict[str, Any] = response.json()
        for cell in answer["cells"]:
            assert set(cell) == {"stdout", "stderr", "display", "error"}
        return answer

    def test_state_and_display(self, server: Server) -> None:
        answer = self.run(server, 'a = "hello"', "a", "print(a)", "import sys\nx = sys.stderr.write('err\\n')", "None")
        assert answer["status"] == "Success"
        assert (answer["driver"]["status"], answer["driver"]["return_code"]) == ("Finished", 0)
        assert [cell["stdout"] for cell in answer["cells"]] == ["", "", "hello\n", "", ""]
        assert [cell["display"] for cell in answer["cells"]] == [[], [{"text/plain": "'hello'"}], [], [], []]
        assert answer["cells"][3]["stderr"] == "err\n"

    def test_cells_after_an_error_still_run(self, server: Server) -> None:
        answer = self.run(server, "a = 1", "a = 2\n1 / 0", "a", "import sys\nsys.exit(1)", "a")
        assert answer["status"] == "Success"
        [error] = answer["cells"][1]["error"]
        assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
        assert '  File "<cell 2>", line 2, in <module>' in error["traceback"]
        assert answer["cells"][1]["stderr"] == ""
        assert answer["cells"][2]["display"] == [{"text/plain": "2"}]
        assert answer["cells"][3]["error"][0]["ename"] == "SystemExit"
        assert answer["cells"][4]["display"] == [{"text/plain": "2"}]

    def test_a_cell_over_its_time_is_rolled_back(self, server: Server) -> None:
        answer = self.run(server, "a = 1", "a = 2\n" + SLEEP, "a", cell_timeout=0.5)
        assert answer["status"] == "Success"
        assert answer["cells"][1]["stdout"] == "begun\n"
        assert answer["cells"][1]["error"][0]["ename"] == "TimeLimitExceeded"
        assert answer["cells"][2]["display"] == [{"text/plain": "1"}]

    def test_a_crash_is_rolled_back(self, server: Server) -> None:
        answer = self.run(server, "a = 1", "a = 2\nimport ctypes\nctypes.string_at(0)", "a")
        assert answer["cells"][1]["error"][0]["ename"] == "DeadKernelError"
        assert answer["cells"][2]["display"] == [{"text/plain": "1"}]

    def test_the_total_time_keeps_finished_cells(self, server: Server) -> None:
        answer = self.run(server, "print(1)", SLEEP, "print(3)", total_timeout=1.0)
        assert answer["status"] == "Failed"
        assert (answer["driver"]["status"], answer["driver"]["return_code"]) == ("TimeLimitExceeded", None)
        assert [cell["stdout"] for cell in answer["cells"]] == ["1\n", "begun\n"]
        assert answer["cells"][1]["error"][0]["ename"] == "TimeLimitExceeded"

    def test_memory_limit(self, server: Server) -> None:
        answer = self.run(server, "x = bytearray(900 << 20)", "1", memory_limit_MB=256)
        assert answer["cells"][0]["error"][0]["ename"] == "MemoryError"
        assert answer["cells"][1]["display"] == [{"text/plain": "1"}]

    def test_files(self, server: Server) -> None:
        code = "open('out/o', 'w').write(open('i').read() * 2)"
        answer = self.run(
            server, "import os\nos.mkdir('out')", code, "1 / 0", files={"i": b64(b"ab")}, fetch_files=["out/o", "no"]
        )
        assert answer["files"] == {"out/o": b64(b"abab")}
        assert answer["driver"]["truncated"] is False

    def test_a_file_that_is_too_large_to_come_back_is_told(self, server: Server) -> None:
        answer = self.run(server, "open('f', 'wb').write(bytes(40 << 20))", fetch_files=["f"])
        assert (answer["files"], answer["driver"]["truncated"]) == ({}, True)

    def test_a_forged_report_is_only_text(self, server: Server) -> None:
        answer = self.run(server, 'print(\'{"display": [], "error": []}\')\n5')
        assert answer["cells"][0]["display"] == [{"text/plain": "5"}]
        assert "display" in answer["cells"][0]["stdout"]

    def test_mistakes(self, server: Server) -> None:
        assert server.post("/run_jupyter", {}).status_code == 422
        assert server.post("/run_jupyter", {"cells": [], "kernel": "ir"}).status_code == 422
        response = server.post("/run_jupyter", {"cells": [], "total_timeout": 1e6})
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "total_timeout"]


def post_and_stay(server: Server, code: str, *, missing: int = 0) -> socket.socket:
    """A request whose answer nobody has read yet; the program goes on until the socket is closed.

    ``missing``: bytes of the body that are announced and not sent, so that nothing runs.
    """
    body = json.dumps({"code": code, "language": "python", "run_timeout": 100}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    lines = ["POST /run_code HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"content-length: {len(body) + missing}", "", ""]
    connection.sendall("\r\n".join(lines).encode() + body)
    return connection


def until(server: Server, **wanted: int) -> None:
    """Wait for the server's own word that so many programs are ``running`` and ``waiting``."""
    for _ in range(3000):
        lines = dict(line.split() for line in server.get("/metrics").text.splitlines() if line[0] != "#")
        if all(int(lines[f"retool_sandbox_{name}"]) == number for name, number in wanted.items()):
            return
        time.sleep(0.01)
    raise AssertionError(f"never {wanted}")


@contextlib.contextmanager
def full(server: Server) -> Iterator[None]:
    """One program running and one waiting, for clients that go at the end."""
    with post_and_stay(server, SLEEP):
        until(server, running=1)
        with post_and_stay(server, SLEEP):
            until(server, running=1, waiting=1)
            yield


class TestAdmission:
    def test_a_full_queue_is_429_and_clients_that_are_gone_free_their_places(self, narrow: Server) -> None:
        with full(narrow):
            response = narrow.post("/run_code", BODY)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert response.json()["status"] == "SandboxError"
            with FusionSandbox(narrow.url, deadline_seconds=2.5) as sandbox:
                refused = sandbox.run("print(1)")
            assert (refused.status, refused.fault) == (RunStatus.SANDBOX_ERROR, "busy")
        with FusionSandbox(narrow.url, deadline_seconds=60.0) as sandbox:
            assert sandbox.run("print(1)").stdout == "1\n"

    @pytest.mark.parametrize("how", ["cancel", "close"])
    def test_a_client_that_gives_up_frees_its_place(self, narrow: Server, how: str) -> None:
        cancel = Cancel()
        sandbox = FusionSandbox(narrow.url)
        with post_and_stay(narrow, SLEEP), ThreadPoolExecutor() as pool:
            until(narrow, running=1, waiting=0)
            run = pool.submit(sandbox.run, SLEEP, cancel=cancel)
            until(narrow, running=1, waiting=1)
            cancel() if how == "cancel" else sandbox.close()
            assert run.result(30).status is RunStatus.CANCELLED
            until(narrow, running=1, waiting=0)
        with FusionSandbox(narrow.url, deadline_seconds=60.0) as again:
            assert again.run("print(1)").stdout == "1\n"
        sandbox.close()
        closed = sandbox.run("")
        assert (closed.status, closed.fault) == (RunStatus.SANDBOX_ERROR, "closed")

    def test_a_burst_beyond_the_queue_is_served_by_asking_again(self, narrow: Server) -> None:
        with FusionSandbox(narrow.url) as sandbox, ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda number: sandbox.run(f"print({number})"), range(8)))
        assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]


class TestGate:
    @pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "Basic first", "Bearer first second", "first"])
    def test_without_a_valid_token_nothing_runs(self, guarded: Server, given: str | None) -> None:
        headers = {"authorization": given} if given else {}
        response = guarded.post("/run_code", BODY, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert guarded.post("/run_jupyter", {"cells": []}, headers=headers).status_code == 401
        assert guarded.get("/metrics", headers=headers).status_code == 401

    @pytest.mark.parametrize("token", ["first", "second"])
    def test_every_token_lets_in(self, guarded: Server, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        assert guarded.post("/run_code", BODY, headers=headers).json()["status"] == "Success"

    def test_ping_needs_none(self, guarded: Server) -> None:
        assert guarded.get("/v1/ping").status_code == 200

    def test_the_client_sends_it_and_says_what_is_wrong(self, guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        with FusionSandbox(guarded.url) as sandbox, pytest.raises(UsageError, match="SANDBOX_FUSION_TOKEN"):
            sandbox.run("")
        with FusionSandbox(guarded.url, token="first") as sandbox:
            assert sandbox.health().status is RunStatus.OK
        monkeypatch.setenv("SANDBOX_FUSION_TOKEN", "second")
        monkeypatch.setenv("SANDBOX_FUSION_ENDPOINT", f"{guarded.url}/run_code")
        with FusionSandbox() as sandbox:
            assert sandbox.health().status is RunStatus.OK

    @pytest.mark.parametrize("size", [(1 << 20) + 1, 3 << 20, 6 << 20])
    def test_a_long_body_is_413(self, guarded: Server, size: int) -> None:
        headers = {"authorization": "Bearer first"}
        try:
            response = guarded.post("/run_code", {**BODY, "stdin": "x" * size}, headers=headers)
        except httpx.TransportError:
            # Far beyond the limit the server hangs up while we still send.
            assert size > 4 << 20
        else:
            assert response.status_code == 413
        assert guarded.post("/run_code", BODY, headers=headers).status_code == 200


def test_a_client_that_goes_while_it_sends_is_no_error_of_the_servers(capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        post_and_stay(server, "print(1)", missing=10).close()
        counted = 'retool_server_answers_total{status="400"} 1'
        assert eventually(lambda: counted in server.get("/metrics").text)
        assert server.post("/run_code", BODY).status_code == 200
    assert "Traceback" not in capfd.readouterr().err


def test_the_server_stops_cleanly_and_ends_what_runs() -> None:
    with serving("--max-running", "1", "--max-queue", "1") as server, ThreadPoolExecutor() as pool:
        answers = [pool.submit(server.post, "/run_code", {**BODY, "code": SLEEP, "run_timeout": 100}) for _ in range(2)]
        until(server, running=1, waiting=1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert [answer.result(30).json()["status"] for answer in answers] == ["SandboxError"] * 2


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_stopped_as_soon_as_it_says_where_it_is(stop: signal.Signals) -> None:
    for _ in range(5):
        with serving() as server:
            server.process.send_signal(stop)
            assert server.process.wait(30) == 0
