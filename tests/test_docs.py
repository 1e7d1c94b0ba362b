"""Every Python example of README and docs runs, and every `retool` command line in them is understood."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from retool_env.cli import COMMANDS, GROUPS, _load, _overrides, _suite
from retool_env.compose import compose

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    found = [
        (page.name, match[2]) for page in PAGES for match in BLOCK.finditer(page.read_text()) if match[1] == language
    ]
    return [(f"{name}-{k}", text) for k, (name, text) in enumerate(found)]


def commands() -> list[str]:
    lines = [
        line.split("#")[0].strip() for _, text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("retool ") and "--help" not in line and "..." not in line]


@pytest.mark.parametrize(("name", "text"), blocks("python"), ids=[name for name, _ in blocks("python")])
def test_example_runs(name: str, text: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def check_group(command: str, arguments: list[str]) -> None:
    """A command with flags of its own: its help knows every flag of the line."""
    subcommands = [] if command == "rescore" else arguments[:1]
    line = [sys.executable, "-m", "retool_env.cli", command, *subcommands, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for flag in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        assert flag in done.stdout


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_command_line_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, command, *arguments = shlex.split(line)
    if command in GROUPS:
        check_group(command, arguments)
        return
    for name in (argument for argument in arguments if re.fullmatch(r"[\w-]+\.jsonl", argument)):
        (tmp_path / name).touch()  # a DATASET is a file that is there
    monkeypatch.chdir(tmp_path)
    _, arguments = _suite(arguments)
    overrides = [argument for argument in _overrides(arguments, COMMANDS[command]) if argument != "-m"]
    compose(command, _load(COMMANDS[command].config), overrides)


def test_there_are_examples() -> None:
    assert len(blocks("python")) >= 3
    assert len(commands()) >= 8


def test_nothing_is_left_to_be_filled_in() -> None:
    for page in PAGES:
        assert not re.search(r"\b(DEMO_TABLE|RECORDED|WALL|RSS|TODO)\b", page.read_text()), page.name
