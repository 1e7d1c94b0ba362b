"""Every Python example of README and docs runs, and every command line in them is understood: programs, files, make
targets and extras exist, settings compose, flags are known. ``tests/run_docs.py`` also runs them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from algos.plan.command import main as plan
from retool_env.cli import COMMANDS, GROUPS, _load, _overrides, _suite, main
from retool_env.compose import _keys, compose
from tests.doc_commands import BLOCK, ELSEWHERE, ROOT, Shown, blocks, commands, nav_pages, pages, saved_files, split

PAGES = pages()
SHOWN = [shown for page in PAGES for shown in commands(page)]
PYTHON = [(page, line, text) for page in PAGES for line, text in blocks(page, "python")]
ALONE = {"compare", "replay", "rescore", "report", "serve", "doctor", "view"}  # commands without sub-commands
ORDINARY = {".", "cat", "cd", "cp", "curl", "echo", "export", "git", "hf", "ls", "mkdir", "pytest", "tensorboard"}


@pytest.mark.parametrize(("page", "line", "text"), PYTHON, ids=[f"{page.name}:{line}" for page, line, _ in PYTHON])
def test_example_runs(page: Path, line: int, text: str, tmp_path: Path) -> None:
    """Beside the files that its page asks to save."""
    for name, content in saved_files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@functools.cache
def help_of(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        assert main([*words, "--help"]) == 0
    return out.getvalue()


def check_group(command: str, arguments: list[str]) -> None:
    """A command with flags of its own: its help knows every flag of the line."""
    if command == "plan":
        assert plan(arguments) in (0, 1)
        return
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    known = help_of(command, *([] if command in ALONE else ours[:1]))
    for flag in (argument.partition("=")[0] for argument in ours if argument.startswith("--") and argument != "--help"):
        assert re.search(rf"{flag}\b", known), flag


def check_command(command: str, arguments: list[str]) -> None:
    """Settings compose, in a sweep those of its first cell."""
    suite, arguments = _suite(arguments) if COMMANDS[command].suite else ("", arguments)
    overrides = [override for override in _overrides(arguments, COMMANDS[command]) if override != "-m"]
    if "-m" in arguments:
        parsed = OverridesParser.create().parse_overrides(overrides)
        overrides = [
            f"{found.key_or_group}={next(iter(found.sweep_string_iterator()))}" if found.is_sweep_override() else text
            for found, text in zip(parsed, overrides, strict=True)
            if not found.key_or_group.startswith("hydra")
            and (found.is_discrete_sweep() or not found.is_sweep_override())
        ]
    assert not suite or suite.endswith(".yaml")
    compose(command, _load(COMMANDS[command].config), overrides)


def check_program(program: str, *arguments: str) -> None:
    if program == "retool":
        command = arguments[0]
        if command in GROUPS:
            check_group(command, list(arguments[1:]))
        elif command in COMMANDS and "--help" not in arguments:
            check_command(command, list(arguments[1:]))
        else:
            assert command in {*COMMANDS, "--help", "--version"}
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "python" and arguments[0] == "-m":
        assert arguments[1] in ("mkdocs", "pytest") or help_exists(arguments[1])
        assert all((ROOT / name).exists() for name in arguments[2:] if name.startswith("tests/"))
    elif program == "python":
        names = {name for page in PAGES for name in saved_files(page)}
        assert (ROOT / arguments[0]).is_file() or arguments[0] in names
    elif program == "pip":
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert {extra for found in re.findall(r"\[([\w,]+)\]", arguments[1]) for extra in found.split(",")} <= set(
            known
        )
    else:
        assert program in ORDINARY, program


def help_exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.fixture
def beside(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a command is read: beside the files that its page asks to save, and data files of the names it uses."""
    page = ROOT / request.getfixturevalue("shown").page
    for name, text in saved_files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in set(re.findall(r"(?<![\w/])\w+\.jsonl\b", page.read_text())):
        (tmp_path / name).touch()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("shown", SHOWN, ids=[shown.name for shown in SHOWN])
@pytest.mark.usefixtures("beside")
def test_command_line_is_understood(shown: Shown) -> None:
    assert "..." not in shown.text, "a reader cannot type this"
    for program, *arguments in split(shown.text):
        check_program(program, *arguments)


def inline(page: str) -> list[str]:
    """Commands in the running text of a page."""
    return re.findall(r"`((?:torchrun [^`]*)?retool \w[^`]+)`", (ROOT / "docs" / page).read_text())


@pytest.mark.parametrize("line", sorted(set(inline("founding.md"))))
def test_what_a_founding_document_is_mapped_to_exists(line: str) -> None:
    if "..." not in line:
        ((program, *arguments),) = split(line)
        check_program(program, *arguments)


def test_keys_that_founding_documents_are_mapped_to_exist() -> None:
    """`section.key` in the page is a key of some command."""
    known = {key for command in COMMANDS.values() for key in _keys(_load(command.config), "")}
    sections = {key.partition(".")[0] for key in known if "." in key}
    text = (ROOT / "docs" / "founding.md").read_text()
    found = {
        key.rstrip(".*")
        for span in re.findall(r"`([^`]+)`", text)
        for key in re.findall(rf"(?<![\w/.])((?:{'|'.join(sections)})\.[\w.*]+)", span)
        if not key.endswith((".py", ".yaml"))
    }
    assert len(found) >= 25
    assert not {key for key in found if not any(name == key or name.startswith(f"{key}.") for name in known)}


def test_commands_are_in_blocks_that_are_read() -> None:
    """A command in a block of another language would escape these tests; in ``text``, what a program printed may
    hold one, indented."""
    for page in PAGES:
        for language, text in ((match[1], match[2]) for match in BLOCK.finditer(page.read_text())):
            assert language == "bash" or not re.search(r"^(retool|make|pip) ", text, re.MULTILINE), (page.name, text)
        assert not re.search(r"^```\n(?=\S)(?:retool|make|pip) ", page.read_text(), re.MULTILINE), page.name


def test_what_cannot_be_run_is_shown_somewhere() -> None:
    stale = [pattern for pattern in ELSEWHERE if not any(re.fullmatch(pattern, shown.text) for shown in SHOWN)]
    assert not stale


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 15
    assert len(SHOWN) >= 60
    assert len({shown.page for shown in SHOWN}) >= 15


def test_every_page_is_in_the_menu_once() -> None:
    listed = list(nav_pages())
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}


def test_the_reference_of_keys_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import make_reference; print(make_reference.reference(), end='')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "docs",
    ).stdout
    page = (ROOT / "docs" / "reference" / "config.md").read_text()
    assert made == page, "keys have changed; run: python docs/make_reference.py"
    rows = re.findall(r"^\| `\w+` \|.*\| (.*?) \|$", made[: made.index("## Flags")], re.MULTILINE)
    assert len(rows) > 150 and all(rows), "a key without a meaning"


def test_nothing_is_left_to_be_filled_in() -> None:
    for page in PAGES:
        assert not re.search(r"\b(DEMO_TABLE|RECORDED|WALL|RSS|TODO|TUTORIAL_\w+|INSIST_\w+)\b", page.read_text()), (
            page.name
        )


def test_lines_are_cut_into_programs() -> None:
    line = "A=1 torchrun --no-python retool train a.b='{c: 1}' > log && echo 'x | y # z' | retool view - &"
    assert split(line) == [["retool", "train", "a.b={c: 1}"], ["echo", "x | y # z"], ["retool", "view", "-"]]
