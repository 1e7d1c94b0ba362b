"""Files and modules of tools, and how mistakes in them read."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from retool_env.dialects import make_dialect
from retool_env.errors import UsageError
from retool_env.modules import split_source
from retool_env.tools import FunctionTool, ToolContext, load_tools

FUNCTIONS = '''
from dataclasses import dataclass

@dataclass
class Sum:
    total: float

def add(a: float, b: float) -> str:
    """Add two numbers."""
    return f"Sum: {a + b}"

def multiply(a: float, b: float) -> str:
    """Multiply two numbers."""
    return f"Product: {a * b}"
'''


def write(folder: Path, text: str, name: str = "my_tools.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def names(source: str) -> list[str]:
    return [tool.spec.name for tool in load_tools(source)]


def test_the_guides_file_loads_as_it_is(tmp_path: Path) -> None:
    add, multiply = load_tools(write(tmp_path, FUNCTIONS + "TOOL_FUNCTIONS = [add, multiply]"))
    assert add.open(ToolContext()).call({"a": 15, "b": 27}, seed=0).text == "Sum: 42.0"
    assert multiply.spec.description == "Multiply two numbers."


@pytest.mark.parametrize(
    ("export", "suffix", "expected"),
    [
        ("TOOL_FUNCTIONS = (add,)", "", ["add"]),
        ("TOOL_FUNCTIONS = {'plus': add, 'times': multiply}", "", ["plus", "times"]),
        ("", ":add", ["add"]),
        ("few = [multiply]", ":few", ["multiply"]),
        ("from retool_env.tools import function_tool\nTOOL_FUNCTIONS = [function_tool(add, name='sum')]", "", ["sum"]),
    ],
)
def test_what_may_be_exported(export: str, suffix: str, expected: list[str], tmp_path: Path) -> None:
    assert names(write(tmp_path, FUNCTIONS + export) + suffix) == expected


def test_a_module_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_package").mkdir()
    write(tmp_path / "some_package", FUNCTIONS + "TOOL_FUNCTIONS = [add]", "tools.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names("some_package.tools") == ["add"]
    assert names("some_package.tools:multiply") == ["multiply"]


def test_an_installed_package_may_bring_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group, written as an installer writes it."""
    write(tmp_path, FUNCTIONS + "TOOL_FUNCTIONS = [add, multiply]", "installed_sums.py")
    (tmp_path / "sums-1.0.dist-info").mkdir()
    write(tmp_path / "sums-1.0.dist-info", "Metadata-Version: 2.1\nName: sums\nVersion: 1.0\n", "METADATA")
    points = "[retool.tools]\nsums = installed_sums:TOOL_FUNCTIONS\nbroken = installed_sums:nothing\n"
    write(tmp_path / "sums-1.0.dist-info", points, "entry_points.txt")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert names("sums") == ["add", "multiply"]
    with pytest.raises(UsageError, match="no tools 'smus'; did you mean 'sums'"):
        load_tools("smus")
    with pytest.raises(UsageError, match=r"tools='broken' \(installed_sums:nothing\) fail: AttributeError"):
        load_tools("broken")


@pytest.mark.parametrize(
    ("text", "suffix", "message"),
    [
        ("", "", "No TOOL_FUNCTIONS found in .*my_tools.py; export TOOL_FUNCTIONS = "),
        ("TOOL_FUNCTIONS = []", "", "No TOOL_FUNCTIONS found in .*: it is empty"),
        ("TOOL_FUNCTIONS = [add, add]", "", "two tools are called 'add'"),
        ("TOOL_FUNCTIONS = [3]", "", "3 is no tool; list functions"),
        ("TOOL_FUNCTIONS = 'add'", "", "'add' is no tool"),
        ("", ":ad", "there is no 'ad' in it; did you mean 'add'"),
        ("import nowhere_at_all", "", "no module 'nowhere_at_all'"),
        ("1/0", "", "cannot be loaded .ZeroDivisionError: division by zero"),
        ("def (", "", "cannot be loaded .SyntaxError"),
        ("def f(x): pass\nTOOL_FUNCTIONS = [f]", "", "tool 'f' has no docstring"),
    ],
)
def test_mistakes_are_one_line(text: str, suffix: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_tools(write(tmp_path, FUNCTIONS + text) + suffix)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.py", "tools='nowhere.py': no such file"),
        ("nowhere.at.all", "tools='nowhere.at.all': no module 'nowhere'"),
        ("code_interpretr", "no tools 'code_interpretr'; did you mean 'code_interpreter'"),
    ],
)
def test_places_that_do_not_exist_are_named(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_tools(source)


def test_a_file_is_executed_once_and_its_classes_can_be_pickled(tmp_path: Path) -> None:
    source = write(tmp_path, FUNCTIONS + "TOOL_FUNCTIONS = [add]")
    first, second = load_tools(source), load_tools(source)
    assert isinstance(first[0], FunctionTool) and isinstance(second[0], FunctionTool)
    assert first[0].function is second[0].function
    module = sys.modules[first[0].function.__module__]
    assert pickle.loads(pickle.dumps(module.Sum(total=1.0))) == module.Sum(total=1.0)


def test_a_file_that_failed_is_tried_again(tmp_path: Path) -> None:
    source = write(tmp_path, "1/0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        load_tools(source)
    write(tmp_path, FUNCTIONS + "TOOL_FUNCTIONS = [add]")
    assert names(source) == ["add"]


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("a.py:name", ("a.py", "name")),
        ("a.py", ("a.py", "")),
        ("p.m:x", ("p.m", "x")),
        ("C:\\tools\\a.py", ("C:\\tools\\a.py", "")),
        ("a:b.py", ("a:b.py", "")),
    ],
)
def test_sources_are_split_at_a_name(source: str, parts: tuple[str, str]) -> None:
    assert split_source(source) == parts


OWN = """
from retool_env.dialects.retool import RetoolDialect

class Shouting(RetoolDialect):
    name = "shouting"

class Half:
    name = "half"
    def __init__(self, *, instructions=True): pass
"""


def test_a_dialect_of_ones_own(tmp_path: Path) -> None:
    source = write(tmp_path, OWN, "own.py")
    assert make_dialect(f"{source}:Shouting").name == "shouting"
    with pytest.raises(UsageError, match="Half lacks stop, chat_tools, replies, build_prompt, parse, write, render"):
        make_dialect(f"{source}:Half")
    with pytest.raises(UsageError, match=r"no class 'Shoutin' in it; did you mean 'Shouting'"):
        make_dialect(f"{source}:Shoutin")
    with pytest.raises(UsageError, match=r"dialect='nowhere\.py': no such file"):
        make_dialect("nowhere.py:Dialect")
