"""``retool serve`` as a user meets it: a real process with real signals, in front of the small server."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agents.serve.command import ServeOptions, notes, server_specs
from agents.serve.install import install
from agents.serve.interpreter import VARIABLE, Installation, find_installation
from retool_env.cli import main
from retool_env.errors import InfrastructureError, UsageError
from tests.agents.serve_tools import ROOT, eventually, facts, free_ports, is_free, lives

VERSION = "0.5.99"
LAUNCHER = "tests.agents.small_server"


@pytest.fixture
def with_sglang(tmp_path: Path) -> dict[str, str]:
    """An environment in which this interpreter seems to have SGLang: its name and version, and nothing to run."""
    info = tmp_path / "packages" / f"sglang-{VERSION}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {VERSION}\n")
    inherited = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return {**inherited, "PYTHONPATH": f"{ROOT}:{info.parent}"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@contextlib.contextmanager
def serving(
    arguments: list[str], env: Mapping[str, str], *, folder: Path, until: str = "serving "
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command and what it has said up to the line that begins with ``until``."""
    command = [sys.executable, "-m", "retool_env.cli", "serve", *arguments, "--logs", str(folder / "logs")]
    if "--" in arguments:
        cut = command.index("--")
        command = [*command[:cut], *command[-2:], *command[cut:-2]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    assert process.stdout is not None
    said: list[str] = []
    try:
        while not said or not said[-1].startswith(until):
            said.append(process.stdout.readline())
            assert said[-1], f"it ended early: {said}"
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)
        process.stdout.close()


def small_flags(port: int, *rest: str) -> list[str]:
    return ["--port", str(port), "--launcher", LAUNCHER, "--", *rest]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serves_until_a_signal(number: int, model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = free_ports()
    arguments = [str(model), "--dtype", "float32", *small_flags(port, "--family", "--mem-fraction-static", "0.5")]
    with serving(arguments, with_sglang, folder=tmp_path) as (process, said):
        assert said[-1] == f"serving http://127.0.0.1:{port}\n"
        found = facts(f"http://127.0.0.1:{port}")
        expected = f"--model-path {model} --host 127.0.0.1 --port {port} --dtype float32 --family"
        assert shlex.join(found["arguments"]) == f"{expected} --mem-fraction-static 0.5"
        process.send_signal(number)
        assert process.wait(60) == 0
    assert not any(map(lives, [found["pid"], found["guard"], *found["family"]]))
    assert is_free(port)
    assert (tmp_path / "logs" / f"server-{port}.log").read_text() == "the first line of the log\n"


def test_a_second_signal_stops_at_once(model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = free_ports()
    with serving([str(model), *small_flags(port, "--deaf")], with_sglang, folder=tmp_path) as (process, _):
        pid = facts(f"http://127.0.0.1:{port}")["pid"]
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert any("stopping" in line for line in process.stdout)
        assert lives(pid)  # it has ten seconds of grace, and ignores SIGTERM
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not lives(pid)


def test_nothing_outlives_a_kill_of_the_command(model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = free_ports()
    with serving([str(model), *small_flags(port, "--family")], with_sglang, folder=tmp_path) as (process, _):
        found = facts(f"http://127.0.0.1:{port}")
        process.kill()
        eventually(lambda: not any(map(lives, [found["pid"], found["guard"], *found["family"]])))


def test_a_crash_is_told_and_repaired(model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = free_ports()
    with serving([str(model), *small_flags(port)], with_sglang, folder=tmp_path) as (process, _):
        first = facts(f"http://127.0.0.1:{port}")["pid"]
        os.kill(first, signal.SIGKILL)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert "ended with code 137" in "".join(lines) and "restart 1 in 1 s, 1 losses in a row" in "".join(lines)
        assert "is ready" in lines[-1]
        assert facts(f"http://127.0.0.1:{port}")["pid"] != first
        process.terminate()
        assert process.wait(60) == 0


def test_replicas_share_the_gpus(model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = free_ports(2)
    env = {**with_sglang, "CUDA_VISIBLE_DEVICES": "4,5,GPU-6,7"}
    arguments = [str(model), "--replicas", "2", "--tp", "2", *small_flags(port)]
    with serving(arguments, env, folder=tmp_path) as (_, said):
        urls = [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"]
        assert said[-1] == f"serving {' '.join(urls)}\n"
        assert [facts(url)["devices"] for url in urls] == ["4,5", "GPU-6,7"]


def run_serve(arguments: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retool_env.cli", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_dry_run_prints_what_a_shell_can_run(model: Path, with_sglang: dict[str, str]) -> None:
    arguments = [str(model), "--replicas", "2", "--dry-run", "--", "--device", "cpu", "--served-model-name", "it's"]
    done = run_serve(arguments, with_sglang)
    assert done.returncode == 0
    rows = [shlex.split(line) for line in done.stdout.splitlines()]
    start = [sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--host", "127.0.0.1", "--port"]
    rest = ["--device", "cpu", "--served-model-name", "it's"]
    assert rows == [[*start, "30000", *rest], [*start, "30001", *rest]]


@pytest.mark.parametrize(
    ("config", "devices", "rest", "dtype"),
    [
        ({"dtype": "float32"}, "0", [], "bfloat16"),
        ({"torch_dtype": "float32"}, "0", [], "bfloat16"),
        ({"dtype": "float32"}, "0", ["--", "--device", "cpu"], "float32"),
        ({"dtype": "float32"}, "", [], "float32"),
        ({"dtype": "bfloat16"}, "0", [], None),
        ({}, "0", [], None),
    ],
)
def test_a_float32_checkpoint_is_not_left_to_sglang(
    config: dict[str, str], devices: str, rest: list[str], dtype: str | None, model: Path, with_sglang: dict[str, str]
) -> None:
    """Which would serve it in float16."""
    (model / "config.json").write_text(json.dumps(config))
    env = {**with_sglang, "CUDA_VISIBLE_DEVICES": devices}
    done = run_serve([str(model), "--dry-run", *rest], env)
    said = ["--dtype", dtype] if dtype else []
    assert shlex.split(done.stdout)[9:] == [*said, *rest[1:]]
    assert done.stderr == (
        f"the checkpoint is float32 and there is no --dtype: serving it in {dtype}\n" if dtype else ""
    )
    assert "--dtype float16" in run_serve([str(model), "--dry-run", "--dtype", "float16", *rest], env).stdout


@pytest.mark.parametrize(
    ("host", "rest", "warned"),
    [
        ("0.0.0.0", [], True),
        ("gpu7", ["--log-level", "info"], True),
        ("0.0.0.0", ["--api-key", "secret"], False),
        ("0.0.0.0", ["--api-key=secret"], False),
        ("127.0.0.2", [], False),
        ("localhost", [], False),
        ("::1", [], False),
    ],
)
def test_servers_that_others_reach_want_a_key(host: str, rest: list[str], warned: bool) -> None:
    found = notes(ServeOptions(model="some/model", host=host, rest=tuple(rest)))
    assert [("without a key" in note, "agent.api_key=KEY" in note) for note in found] == [(True, True)] * warned


def test_a_start_that_fails_ends_the_command(model: Path, with_sglang: dict[str, str], tmp_path: Path) -> None:
    port = str(free_ports())
    flags = ["--port", port, "--launcher", LAUNCHER, "--logs", str(tmp_path), "--", "--fail-from", "1"]
    done = run_serve([str(model), *flags], with_sglang)
    assert done.returncode == 3 and "no luck with start 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "devices", "message"),
    [
        (["--tp", "2"], "", "needs a MODEL"),
        (["no/../such", "--tp", "0"], "", "--tp"),
        (["./nothing"], "", "no checkpoint at './nothing'"),
        (["MODEL", "--replicas", "3"], "0,1", "3 replicas with 1 GPUs each need 3, and there are 2: 0,1"),
        (["MODEL", "--replicas", "2"], "", "found no GPU"),
        (["MODEL", "--port", "65535", "--replicas", "2"], "0,1", "--port 65535"),
        (["MODEL", "--", "--port=3"], "", "give it to retool itself, as --port"),
        (["MODEL", "--", "--tensor-parallel-size", "2"], "", "as --tp"),
        (["MODEL", "--router", "4000"], "", "pip install sglang-router"),
        (["MODEL", "--python", "/no/such"], "", "--python '/no/such' is no program"),
        (["MODEL", "--replica", "2"], "", "--replica"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], devices: str, message: str, model: Path, with_sglang: dict[str, str]
) -> None:
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    done = run_serve(arguments, {**with_sglang, "CUDA_VISIBLE_DEVICES": devices})
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    installation = Installation(python=Path(sys.executable), version=VERSION)
    with pytest.raises(UsageError, match=r"has no config\.json"):
        server_specs(ServeOptions(model=str(tmp_path)), installation)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter of an environment without anything in it."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv.create(tmp_path / "bare", with_pip=False)
    return tmp_path / "bare" / "bin" / "python"


def test_an_environment_without_sglang_is_told(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--python .* has no SGLang.*--install"):
        find_installation(str(bare))
    monkeypatch.setenv(VARIABLE, str(bare))
    with pytest.raises(UsageError, match=r"RETOOL_SGLANG_PYTHON .* has no SGLang"):
        find_installation()


def test_without_any_sglang_three_ways_are_named(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(UsageError):
        find_installation()
        pytest.skip("SGLang is installed beside these tests, so it is found")
    assert main(["serve", "some/model"]) == 2
    told = capsys.readouterr().err
    assert all(way in told for way in ("--install DIR", "--python PATH", "RETOOL_SGLANG_PYTHON", "[sglang]"))


def wheel(folder: Path) -> Path:
    """A wheel of that name with nothing but its metadata."""
    path = folder / f"sglang-{VERSION}-py3-none-any.whl"
    info = f"sglang-{VERSION}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: sglang\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.mark.slow
def test_install_goes_on_after_a_failure_and_is_found(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    with pytest.raises(InfrastructureError, match="pip"):
        install(folder, str(tmp_path / "missing-1.0-py3-none-any.whl"))
    installation = install(folder, str(wheel(tmp_path)))
    assert installation == Installation(python=folder / "bin" / "python", version=VERSION)
    assert installation.version_of("pip") is not None and installation.version_of("sglang-router") is None
    assert install(folder, str(wheel(tmp_path))) == installation  # again: nothing to do
    assert find_installation(str(installation.python)) == installation


def test_install_spares_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds something else"):
        install(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="holds something else"):
        install(tmp_path / "file")


def test_help_teaches() -> None:
    done = run_serve(["--help"], os.environ)
    assert done.returncode == 0
    for word in (
        "--install",
        "--replicas",
        "--python",
        "RETOOL_SGLANG_PYTHON",
        "exit code",
        "-- --mem-fraction-static",
    ):
        assert word in done.stdout
