"""``retool play``: a person at a pipe and at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from agents.human import HumanAgent
from agents.play import verdict_text
from retool_env.dialects import make_dialect
from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from retool_env.tokenizer import ByteTokenizer
from retool_env.trajectory import read_trajectories
from tests.agents.episodes import make_episode

COMMAND = [sys.executable, "-m", "retool_env.cli", "play"]
PROBLEM = '{"prompt": "What is 6 times 7?", "answer": "42"}\n'


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "one.jsonl"
    path.write_text(PROBLEM)
    return path


def piped(*arguments: str, typed: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], input=typed, capture_output=True, text=True, check=False, cwd=cwd)


def test_a_program_and_an_answer(problem: Path, tmp_path: Path) -> None:
    typed = ":help\n:tools\n:what\n:answer\n:code\nx = 6\nx * 7\n.\n:answer 42\nthis is read by nobody\n"
    done = piped(str(problem), "index=0", "out=kept", typed=typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert shown.count("What is 6 times 7?") == 1
    assert ":answer 42        the final answer" in shown and "code_interpreter(code: string)" in shown
    assert ":what is no command" in shown and "What is the answer?" in shown
    assert "\n42\n[turn 2" in shown
    assert "Right: the answer is 42." in shown and "2 turns" in shown and "calls: 1 ok; reward: pm1 +1" in shown
    (kept,) = read_trajectories(tmp_path / "kept" / "trajectories.jsonl")
    assert kept.record.correct and [call.code for call in kept.record.calls] == ["x = 6\nx * 7"]
    assert kept.record.turns[-1] == "\\boxed{42}"


@pytest.mark.parametrize("dialect", ["retool", "hermes", "markdown"])
def test_turns_in_the_words_of_the_dialect(problem: Path, tmp_path: Path, dialect: str) -> None:
    """A turn as a policy writes it, and the command for programs in every dialect."""
    own = "Let me see. <code>print(40 + 1)</code>\n.\n" if dialect == "retool" else ""
    typed = own + ":code 40 + 2\nIt is \\boxed{41}.\n.\n"
    done = piped(str(problem), "index=0", f"env.dialect={dialect}", typed=typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("41\n[turn 2" in done.stdout) == (dialect == "retool")
    assert "Wrong: the answer is 42, and you said 41." in done.stdout
    assert f"calls: {2 if own else 1} ok" in done.stdout


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_input_that_is_no_text(problem: Path, tmp_path: Path, locale: str) -> None:
    typed = b":wh\xff\n:code print(ascii('\xe9'))\n:answer 42\xe9\n"
    command = [*COMMAND, str(problem), "index=0", "out=kept"]
    env = {**os.environ, "LC_ALL": locale}
    done = subprocess.run(command, input=typed, capture_output=True, check=False, cwd=tmp_path, env=env)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    (kept,) = read_trajectories(tmp_path / "kept" / "trajectories.jsonl")
    assert kept.record.calls[0].text.strip() == r"'\ufffd'" and kept.record.turns[-1] == "\\boxed{42\ufffd}"


@pytest.mark.parametrize("typed", ["", ":quit\n", ":code\nprint(1)\n", ":code 1\n:q\n"])
def test_leaving_in_the_middle(problem: Path, tmp_path: Path, typed: str) -> None:
    done = piped(str(problem), "index=0", "out=kept", typed=typed, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "Left.", "")
    assert not (tmp_path / "kept").exists()


def test_mistakes_are_one_line(problem: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("out: run\n")
    for arguments, message in [
        ((str(problem), "index=1"), "index=1: the source has problems 0..0"),
        (("nowhere.jsonl",), "DATASET 'nowhere.jsonl': no such file"),
        ((str(problem), "out=run"), "out='run' holds another run"),
    ]:
        done = piped(*arguments, typed="", cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1


def test_at_a_terminal(problem: Path, tmp_path: Path) -> None:
    """With a prompt, another problem on demand, and the end of input to leave."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*COMMAND, str(problem)], stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path)
    os.close(slave)
    shown, seen = b"", 0

    def read_until(text: bytes) -> None:
        nonlocal shown, seen
        while text not in shown[seen:]:
            assert select.select([master], [], [], 60)[0], f"{text!r} did not come: {shown.decode()}"
            shown += os.read(master, 4096)
        seen = shown.index(text, seen) + len(text)

    try:
        read_until(b"> ")
        os.write(master, b":code 6 * 7\n")
        read_until(b"[turn 2")
        read_until(b"> ")
        os.write(master, b":answer 42\n")
        read_until(b"Another problem?")
        assert b"Right: the answer is 42." in shown
        os.write(master, b"\n")
        read_until(b"> ")
        os.write(master, b"\x04")  # the end of input
        read_until(b"Left.")
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(30)
        os.close(master)


def test_what_is_said_in_the_end() -> None:
    bad = CallRecord(turn=0, name="python", code="?", status=ToolStatus.ERROR, text="NameError: x")
    assert verdict_text(make_episode("p", right=False, outcome=Outcome.MAX_TURNS, calls=[bad])).splitlines() == [
        "Wrong (max_turns): the answer is 7.",
        "1 turn in 0 s; calls: 1 error; reward: pm1 -1",
    ]
    failed = verdict_text(make_episode("p", right=False, outcome=Outcome.SANDBOX_OUTAGE))
    assert failed.startswith("Not scored (sandbox_outage): something outside of the game failed")


def test_the_help_of_the_agent_is_true() -> None:
    """Every command that the help names is one."""
    from agents.human import HELP

    named = {line.split()[0] for line in HELP.splitlines() if line.startswith("  :")}
    agent = HumanAgent(ByteTokenizer(), make_dialect("retool"))
    request = type("Request", (), {"token_ids": [65], "tools": ()})()
    shows = {word for word in named if "is no command" not in agent._reply(word, request)}
    assert named - shows == {":code"}
