"""Keys and passwords: sent, and never stored, printed or put on a command line."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agents.config import AgentConfig, EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.suite import read_suite
from agents.openai_chat import OpenAIAgent
from agents.run_folder import RunFolder
from agents.sglang import SGLangAgent
from agents.viewer.command import main as view
from algos.config import TrainConfig
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.config import check_config
from retool_env.dialects import make_dialect
from retool_env.errors import EngineError, UsageError
from retool_env.tokenizer import ByteTokenizer
from retool_env.urls import mask_url
from tests.agents.chat_server import ChatServer, chat_server
from tests.agents.test_openai_chat import ask

SECRET = "geheim-77"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


def with_password(url: str) -> str:
    return url.replace("://", f"://user:{SECRET}@")


def test_a_password_in_an_address_is_sent_and_stored_nowhere(server: ChatServer, tmp_path: Path) -> None:
    out = tmp_path / "run"
    overrides = ["agent=openai", f"agent.url={with_password(server.url)}", "problems.size=2", f"out={out}"]
    config = compose("eval", EvalConfig, [*overrides, "problems.split=heldout"])
    evaluate_agent(config)
    assert set(server.seen) == {f"Basic {base64.b64encode(f'user:{SECRET}'.encode()).decode()}"}
    view([str(out), "--out", str(tmp_path / "page.html")])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "page.html" in files and not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert json.loads((out / "run.json").read_text())["config"]["agent"]["url"] == mask_url(with_password(server.url))
    assert SECRET not in repr(config) and config.agent.urls == (with_password(server.url),)


def test_a_password_is_in_no_message(server: ChatServer) -> None:
    server.failures = [(404, {})]
    agent = OpenAIAgent(with_password(server.url), "m", ByteTokenizer(), make_dialect("retool"))
    nobody = OpenAIAgent(with_password("http://127.0.0.1:9"), "m", ByteTokenizer(), make_dialect("retool"))
    sglang = SGLangAgent([with_password("http://127.0.0.1:9")], ByteTokenizer(), patience=0.1, max_attempts=1)
    tries = [lambda: agent.act(ask()), nobody.connect, lambda: sglang.act(ask()), sglang.context_length]
    tries.append(lambda: OpenAIAgent(with_password("http://h:80a0"), "m", ByteTokenizer(), make_dialect("retool")))
    for refused in tries:
        with pytest.raises((UsageError, EngineError), match=r"//\*\*\*@") as told:
            refused()
        assert SECRET not in str(told.value)


def test_what_a_run_folder_has_of_secrets_is_not_taken_for_them(tmp_path: Path) -> None:
    agent = AgentConfig(name="sglang", url=(with_password("http://a"), "http://b"), api_key=SECRET)
    RunFolder(tmp_path, TrainConfig(agent=agent))
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())["agent"]
    assert stored["url"] == ["http://***@a", "http://b"] and SECRET not in (tmp_path / "config.yaml").read_text()
    with pytest.raises(UsageError, match="its user and password were not stored"):
        compose("train", TrainConfig, [f"resume={tmp_path}"])
    again = compose("train", TrainConfig, [f"resume={tmp_path}", f"agent.url={with_password('http://a')}"])
    assert again.agent.urls == (with_password("http://a"),) and again.agent.api_key is None


@pytest.mark.parametrize("key", ["123456789", "0123", "1e5", "1_000", "true", "sk-a,b", "a{b}", "it's\\", "***"])
def test_a_key_is_text_whatever_it_looks_like(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[EvalConfig] = []
    monkeypatch.setattr("agents.evaluation.evaluate.evaluate_agent", taken.append)
    assert main(["eval", "--agent", "openai", "--api-key", key]) == 0
    given = taken[0].agent.api_key
    assert given is not None and given.get_secret_value() == key


def test_a_key_from_a_variable_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "0123")
    given = compose("eval", EvalConfig, ["agent.api_key=${oc.env:MY_KEY}"]).agent.api_key
    assert given is not None and given.get_secret_value() == "0123"
    assert compose("eval", EvalConfig, ["agent.api_key=x", "agent.api_key=null"]).agent.api_key is None


def test_a_key_of_the_wrong_kind_is_not_printed() -> None:
    with pytest.raises(UsageError, match=r"^agent\.api_key: input should be a valid string$"):
        check_config(EvalConfig, {"agent": {"api_key": 123456789}})


AGENT = """
import os
import time
from pathlib import Path

class Told:
    def __init__(self, setup, *, text):
        inherited = str("RETOOL_CELL_SECRETS" in os.environ)
        lines = [setup.config.api_key.get_secret_value(), *setup.config.urls, text, inherited]
        Path("telling").write_text("\\n".join(lines))
        Path("telling").rename("told")
        time.sleep(60)
"""


def test_a_suite_puts_no_secret_on_a_command_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(AGENT)
    agent = {"name": "own.py:Told", "api_key": SECRET, "url": with_password("http://h")}
    agent["options"] = {"text": "${oc.env:HOME} in C:\\"}  # type: ignore[assignment]
    suite = {"out": "suite", "agents": {"a": agent}, "datasets": ["arithmetic"]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-m", "retool_env.cli", "eval", "--suite", "suite.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "told").exists() and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.1)
            lines = [line for line in command_lines(tmp_path) if b"retool_env.sweeps.process" in line]
            assert len(lines) == 1 and SECRET.encode() not in lines[0]
        finally:
            process.kill()  # and its cell with it
    told = (tmp_path / "told").read_text().split("\n")
    assert told == [SECRET, with_password("http://h"), "${oc.env:HOME} in C:\\", "False"]


def command_lines(folder: Path) -> Iterator[bytes]:
    """Of the processes whose working directory is ``folder``."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                yield (entry / "cmdline").read_bytes()
        except OSError:
            continue


def test_a_suite_that_cannot_be_read_shows_nothing_of_itself(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(f"agents: {{a: {{api_key: {SECRET}: x}}}}\n")
    with pytest.raises(UsageError, match="cannot be read") as told:
        read_suite(tmp_path / "suite.yaml")
    assert SECRET not in str(told.value) and "line 1" in str(told.value)
