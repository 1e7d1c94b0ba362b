"""Servers started, watched, restarted and ended: real processes, real signals, a real port."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from agents.serve import Patience, ServerProcess, ServerSpec, Supervisor
from retool_env.errors import EngineError, UsageError
from tests.agents.serve_tools import QUICK, ROOT, eventually, facts, is_free, lives, small


def crash(url: str) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url}/crash", trust_env=False)


def test_started_used_and_stopped(tmp_path: Path) -> None:
    with ServerProcess(small(tmp_path, "--family")) as server:
        found = facts(server.url)
        pids = [found["pid"], found["guard"], *found["family"]]
        assert all(map(lives, pids)) and len(pids) == 4
        assert server.alive and server.exit_code is None
        assert server.tail() == ["the first line of the log"]
    assert not any(map(lives, pids))
    assert is_free(server.spec.port)
    assert not server.alive and server.exit_code == 128 + signal.SIGTERM
    server.stop()


def test_the_whole_family_ends_when_the_server_crashes(tmp_path: Path) -> None:
    with ServerProcess(small(tmp_path, "--family")) as server:
        pids = [*facts(server.url)["family"], facts(server.url)["guard"]]
        crash(server.url)
        eventually(lambda: not any(map(lives, pids)))
        assert server.exit_code == 128 + signal.SIGKILL


def test_a_server_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    with ServerProcess(small(tmp_path, "--deaf", grace_seconds=0.3)) as server:
        pid = facts(server.url)["pid"]
    assert server.exit_code == 128 + signal.SIGKILL and not lives(pid)


def test_kill_gives_no_grace(tmp_path: Path) -> None:
    # With its grace of an hour the test would not end.
    with ServerProcess(small(tmp_path, "--deaf", "--family", grace_seconds=3600)) as server:
        found = facts(server.url)
        server.kill()
    assert not any(map(lives, [found["pid"], *found["family"]]))


def test_nothing_outlives_the_guard(tmp_path: Path) -> None:
    with ServerProcess(small(tmp_path, "--deaf", grace_seconds=3600)) as server:
        found = facts(server.url)
        os.kill(found["guard"], signal.SIGKILL)
        eventually(lambda: not lives(found["pid"]))
    assert server.exit_code == 128 + signal.SIGKILL


def test_nothing_outlives_a_supervisor_killed_outright(tmp_path: Path) -> None:
    spec = small(tmp_path, "--family")
    program = (
        "import sys, time; from pathlib import Path; from agents.serve import ServerProcess, ServerSpec\n"
        "port, log, *command = sys.argv[1:]\n"
        "spec = ServerSpec(command=tuple(command), host='127.0.0.1', port=int(port), log=Path(log))\n"
        "with ServerProcess(spec): print('ready', flush=True); time.sleep(600)"
    )
    arguments = [str(spec.port), str(spec.log), *spec.command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
        found = facts(spec.url)
        owner.kill()
    eventually(lambda: not any(map(lives, [found["pid"], found["guard"], *found["family"]])))
    assert is_free(spec.port)


def test_the_thread_that_started_a_server_may_end(tmp_path: Path) -> None:
    server = ServerProcess(small(tmp_path))
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    assert server.wait_ready(60)
    assert server.alive
    server.stop()


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    spec = small(tmp_path, "--fail-from", "1")
    with pytest.raises(EngineError, match=r"ended with code 7 before it was ready(.|\n)*no luck with start 1"):
        ServerProcess(spec).__enter__()


def test_a_start_that_takes_too_long_says_what_it_was_at(tmp_path: Path) -> None:
    spec = small(tmp_path)
    program = "import time; print('loading, loading', flush=True); time.sleep(600)"
    server = ServerProcess(
        ServerSpec(command=(sys.executable, "-c", program), host=spec.host, port=spec.port, log=spec.log)
    )
    server.start()
    eventually(lambda: server.tail())
    with pytest.raises(EngineError, match=r"not ready after 0 s(.|\n)*loading, loading"):
        server.wait_ready(0.2)
    server.stop()


def test_a_missing_program_is_told(tmp_path: Path) -> None:
    spec = small(tmp_path)
    missing = ServerSpec(command=("/no/such/python",), host=spec.host, port=spec.port, log=spec.log)
    with pytest.raises(EngineError, match="/no/such/python"):
        ServerProcess(missing).__enter__()


def test_a_taken_port_is_told_at_once(tmp_path: Path) -> None:
    spec = small(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", spec.port))
        other.listen()
        with pytest.raises(UsageError, match=f"port {spec.port}.*--port"):
            ServerProcess(spec).start()


def test_a_crashed_server_is_restarted(tmp_path: Path) -> None:
    said: list[str] = []
    spec = small(tmp_path, "--count", str(tmp_path / "count"))
    with Supervisor([spec], patience=QUICK, report=said.append) as supervisor:
        assert supervisor.wait_ready()
        first = facts(spec.url)["pid"]
        crash(spec.url)
        eventually(lambda: supervisor.restarts == (1,) and supervisor.ready == (True,))
        assert facts(spec.url)["starts"] == 2 and not lives(first)
    assert is_free(spec.port)
    assert any("ended with code 137" in line for line in said)


def test_a_silent_server_is_restarted(tmp_path: Path) -> None:
    spec = small(tmp_path)
    with Supervisor([spec], patience=dataclasses.replace(QUICK, silent_seconds=2.0)) as supervisor:
        assert supervisor.wait_ready()
        first = facts(spec.url)["pid"]
        os.kill(first, signal.SIGSTOP)
        eventually(lambda: supervisor.restarts[0] >= 1 and supervisor.ready == (True,))
        assert not lives(first)


def test_one_of_two_is_restarted_and_the_other_left_alone(tmp_path: Path) -> None:
    specs = [small(tmp_path), small(tmp_path)]
    with Supervisor(specs, patience=QUICK) as supervisor:
        assert supervisor.wait_ready() and supervisor.urls == tuple(spec.url for spec in specs)
        other = facts(specs[0].url)["pid"]
        crash(specs[1].url)
        eventually(lambda: supervisor.restarts == (0, 1) and all(supervisor.ready))
        assert facts(specs[0].url)["pid"] == other


def test_a_first_start_that_fails_is_not_repeated(tmp_path: Path) -> None:
    count = tmp_path / "count"
    spec = small(tmp_path, "--count", str(count), "--fail-from", "1")
    with pytest.raises(EngineError, match="no luck with start 1"), Supervisor([spec], patience=QUICK) as supervisor:
        supervisor.wait_ready()
    assert count.stat().st_size == 1


def test_the_circuit_opens_after_losses_in_a_row(tmp_path: Path) -> None:
    count = tmp_path / "count"
    spec = small(tmp_path, "--count", str(count), "--fail-from", "2")
    with Supervisor([spec], patience=QUICK) as supervisor:
        assert supervisor.wait_ready()
        crash(spec.url)
        with pytest.raises(EngineError, match="no server stays alive"):
            supervisor.wait()
    assert count.stat().st_size == QUICK.losses  # the crash and two failed starts


def test_an_open_circuit_is_tried_again_while_another_server_lives(tmp_path: Path) -> None:
    count = tmp_path / "count"
    broken = small(tmp_path, "--count", str(count), "--fail-from", "2")
    with Supervisor([small(tmp_path), broken], patience=QUICK) as supervisor:
        assert supervisor.wait_ready()
        crash(broken.url)
        eventually(lambda: count.stat().st_size >= QUICK.losses + 2)
        assert supervisor.ready == (True, False)


def test_losses_are_forgotten_after_a_long_life(tmp_path: Path) -> None:
    patience = Patience(first_pause=0.05, longest_pause=0.05, young_seconds=0.5, losses=2)
    spec = small(tmp_path)
    with Supervisor([spec], patience=patience) as supervisor:
        for k in range(3):
            eventually(lambda k=k: supervisor.restarts == (k,) and supervisor.ready == (True,))
            threading.Event().wait(1.5)
            crash(spec.url)
        eventually(lambda: supervisor.restarts == (3,) and supervisor.ready == (True,))
