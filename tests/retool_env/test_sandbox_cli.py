"""``retool sandbox``: running one program, serving, help and mistakes; and the tool files that name a sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from retool_env.cli import main
from retool_env.errors import UsageError
from retool_env.sandbox import RunStatus
from retool_env.sandbox.cli import COMMANDS
from retool_env.tool_config import SandboxTool, load_tool_config, open_tool
from tests.retool_env.fusion_server import serving

linux = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")


def retool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retool_env.cli", "sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)


@linux
class TestRun:
    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "p.py").write_text("import sys\nprint(input(), 'é')\nprint('err', file=sys.stderr)\n", "utf-8")
        (tmp_path / "in").write_text("typed\n")
        done = retool("run", str(tmp_path / "p.py"), "--stdin", str(tmp_path / "in"))
        assert (done.returncode, done.stdout) == (0, "typed é\n")
        assert done.stderr.startswith("err\n[ok exit_code=0 cpu_seconds=")
        assert done.stderr.count("\n") == 2

    def test_standard_input_as_a_notebook(self) -> None:
        done = retool("run", "-", "--mode", "notebook", stdin="x = 6\nx * 7")
        assert (done.returncode, done.stdout) == (0, "42\n")

    @pytest.mark.parametrize(
        ("code", "flags", "status"),
        [
            ("1 / 0", [], "error"),
            ("while True: pass", ["--cpu-seconds", "0.2"], "timeout"),
            ("import time; time.sleep(60)", ["--wall-seconds", "0.2"], "timeout"),
            ("bytearray(900 << 20)", ["--memory-mb", "64"], "memory"),
        ],
    )
    def test_a_program_that_fails_is_exit_code_1(self, code: str, flags: list[str], status: str) -> None:
        done = retool("run", "-", *flags, stdin=code)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith(f"[{status} ")

    def test_json(self) -> None:
        code = "import random\nprint(random.random())\nprint('\\u00e9')"
        first, again = (retool("run", "-", "--json", "--seed", "5", stdin=code) for _ in range(2))
        result = json.loads(first.stdout)
        assert first.returncode == 0
        assert first.stderr == ""
        assert (result["status"], result["exit_code"], result["signal"]) == ("ok", 0, None)
        assert result["stdout"] == json.loads(again.stdout)["stdout"]
        assert result["stdout"].endswith("\né\n")

    def test_on_a_server(self) -> None:
        with serving() as server:
            done = retool("run", "-", "--sandbox", f"fusion:{server.url}", "--mode", "notebook", stdin="6 * 7")
        assert (done.returncode, done.stdout) == (0, "42\n")


def test_a_sandbox_that_is_not_there_is_exit_code_3() -> None:
    done = retool("run", "-", "--sandbox", "fusion:http://127.0.0.1:1", stdin="1")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("[sandbox_error fault=unavailable ")


@linux
class TestServe:
    def test_it_says_where_and_with_what(self) -> None:
        with serving("--max-running", "3", "--max-queue", "7") as server:
            words = dict(word.split("=", 1) for word in server.greeting.split()[2:])
            assert server.url.startswith("http://127.0.0.1:")
            assert (words["max_running"], words["max_queue"], words["token"]) == ("3", "7", "none")
            assert words["tier"]
            assert int(words["pid"]) == server.process.pid

    def test_a_port_that_is_taken(self) -> None:
        with serving() as server:
            port = server.url.rpartition(":")[2]
            done = retool("serve", "--port", port)
        assert done.returncode == 2
        assert done.stderr.startswith(f"retool: cannot listen at 127.0.0.1 port {port}: ")

    def test_sub_processes_only_when_allowed(self) -> None:
        body = {"language": "python", "code": "import os\npid = os.fork()\npid and print(os.waitpid(pid, 0)[1])"}
        answers = []
        for flags in ([], ["--allow-subprocesses"]):
            with serving(*flags) as server:
                answers.append(httpx.post(f"{server.url}/run_code", json=body, timeout=60.0).json()["run_result"])
        assert answers[0]["return_code"] == 1
        assert (answers[1]["return_code"], answers[1]["stdout"]) == (0, "0\n")


@pytest.mark.parametrize("arguments", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_teaches_and_imports_no_server(arguments: list[str]) -> None:
    code = (
        "import sys, retool_env; before = {*sys.modules}; from retool_env.cli import main; "
        "code = main(['sandbox', *sys.argv[1:]]); new = {*sys.modules} - before; "
        "assert not {'torch', 'uvicorn', 'starlette'} & new, new; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: retool sandbox" in done.stdout
    assert all(word in done.stdout for word in COMMANDS) or len(arguments) == 2


@pytest.mark.parametrize("command", ["run", "serve"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", command, "--help"]) == 0
    assert "examples:\n  " in capsys.readouterr().out


MISTAKES = [
    (["rnu"], "unknown command 'sandbox rnu'; did you mean 'run'?"),
    (["run"], "the following arguments are required: FILE; see `retool sandbox run --help`"),
    (["run", "no.py"], "cannot read 'no.py': No such file or directory"),
    (["run", "binary.py"], "'binary.py' is not UTF-8 text: byte 0 is 0xff"),
    (["run", "good.py", "--stdin", "no"], "cannot read 'no': No such file or directory"),
    (["run", "good.py", "--mode", "cell"], "argument --mode: invalid choice: 'cell'"),
    (["run", "good.py", "--cpu-seconds", "0"], "sandbox limit cpu_seconds=0.0: must be a finite number, at least 0.05"),
    (["run", "good.py", "--sandbox", "frok"], "unknown sandbox 'frok'; did you mean 'fork'?"),
    (["run", "good.py", "--sandbox", "fusion:nowhere"], "sandbox URL 'nowhere': must look like http://host:8080"),
    (["serve", "--port", "70000"], "argument --port: 70000 must be between 0 and 65535"),
    (["run", "good.py", "--wall-seconds", "0"], "sandbox limit wall_seconds=0.0: must be a finite number"),
    (["serve", "--max-seconds", "nan"], "argument --max-seconds: nan must be a positive number"),
    (["serve", "--max-queue", "0"], "argument --max-queue: 0 must be at least 1"),
    (["serve", "--host", "0.0.0.0"], "others can reach that address, so a token is needed"),
    (["serve", "--token-env", "NOT_SET_ANYWHERE"], "that environment variable is not set or empty"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text("print(1)")
    (tmp_path / "binary.py").write_bytes(b"\xff\x00")
    assert main(["sandbox", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("retool: ")
    assert message in error
    assert error.count("\n") == 1


GUIDE = """
tools:
  - name: "code_interpreter"
    type: "SandboxFusionTool"
    config:
      base_url: "http://your-sandbox-api:8080"
      timeout: 30
"""

VERL = """
tools:
  - class_name: "recipe.retool.retool.CustomSandboxFusionTool"
    config:
      sandbox_fusion_url: "http://localhost:8080/run_code"
      num_workers: 128
      enable_global_rate_limit: true
      rate_limit: 64
      default_timeout: 20
      default_language: "python"
      memory_limit_mb: 2048
      type: native
    tool_schema:
      type: "function"
      function: {name: "python", description: "runs code", parameters: {type: "object"}}
"""


class TestToolFile:
    def load(self, folder: Path, text: str) -> tuple[SandboxTool, ...]:
        (folder / "tool.yaml").write_text(text, "utf-8")
        return load_tool_config(folder / "tool.yaml")

    def test_the_shape_of_the_guides(self, tmp_path: Path) -> None:
        [tool] = self.load(tmp_path, GUIDE)
        assert tool == SandboxTool(name="code_interpreter", url="http://your-sandbox-api:8080", timeout=30.0)
        assert (tool.limits.cpu_seconds, tool.limits.wall_seconds, tool.limits.memory_mb) == (30.0, 30.0, 1024)
        assert tool.sandbox == "fusion:http://your-sandbox-api:8080"

    def test_the_shape_of_verl(self, tmp_path: Path) -> None:
        [tool] = self.load(tmp_path, VERL)
        url = "http://localhost:8080/run_code"
        assert tool == SandboxTool(name="python", url=url, timeout=20.0, memory_mb=2048, max_connections=64)

    @linux
    def test_it_opens(self, tmp_path: Path) -> None:
        with serving() as server:
            [tool] = self.load(tmp_path, GUIDE.replace("http://your-sandbox-api:8080", server.url))
            sandbox, limits = open_tool(tool)
            with sandbox:
                result = sandbox.run("6 * 7", mode="notebook", limits=limits)
        assert (result.status, result.stdout) == (RunStatus.OK, "42\n")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("tools: [", "is no YAML"),
            ("tool: []", "expected a list 'tools'"),
            ("tools: []", "at least one entry"),
            ("tools: [x]", r"tools\[0\]='x': expected a mapping"),
            ("tools: [{type: SandboxFusionTol}]", "did you mean 'SandboxFusionTool'"),
            ("tools: [{class_name: verl.tools.gsm8k_tool.Gsm8kTool}]", "is unknown"),
            ("tools: [{name: x}]", "needs 'type: SandboxFusionTool'"),
            ("tools: [{type: SandboxFusionTool, confg: {}}]", "did you mean 'config'"),
            ("tools: [{type: SandboxFusionTool, config: {base_ulr: x}}]", "did you mean 'base_url'"),
            ("tools: [{type: SandboxFusionTool, config: 3}]", "config=3: expected a mapping"),
            ("tools: [{type: SandboxFusionTool, config: {timeout: -1}}]", "timeout=-1: input should be greater than 0"),
            ("tools: [{type: SandboxFusionTool, config: {timeout: 0.01}}]", "at least 0.05"),
            ("tools: [{type: SandboxFusionTool, config: {timeout: 1, default_timeout: 2}}]", "mean the same"),
            ("tools: [{type: SandboxFusionTool, config: {default_language: cpp}}]", "should be 'python'"),
            ("tools: [{type: SandboxFusionTool}, {type: SandboxFusionTool}]", "the same name"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            self.load(tmp_path, text)
        assert "\n" not in str(caught.value)

    def test_no_file(self) -> None:
        with pytest.raises(UsageError, match="No such file"):
            load_tool_config("nowhere.yaml")
