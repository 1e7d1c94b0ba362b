"""Every example in a docstring runs, and there are some where a newcomer begins."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from retool_env.errors import MissingExtraError

ROOT = Path(__file__).resolve().parents[1]
PROMPT = ">>> "
FENCE = re.compile(r"^```python$", re.MULTILINE)


def sources() -> list[str]:
    found = [path for package in ("retool_env", "agents", "algos") for path in sorted((ROOT / package).rglob("*.py"))]
    return [str(path.relative_to(ROOT)) for path in found]


def docstrings(path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def written(path: str) -> int:
    """Examples that a reader sees in the file."""
    return sum(len(doctest.DocTestParser().get_examples(text)) for text in docstrings(path))


WITH_EXAMPLES = [path for path in sources() if PROMPT in (ROOT / path).read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES)
def test_examples_run(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    try:
        module = importlib.import_module(name)
    except (ModuleNotFoundError, MissingExtraError) as error:
        pytest.skip(f"{name} needs what is not installed here: {error}")
    result = doctest.testmod(module)
    assert result.failed == 0, "see the report above"
    # doctest passes over what a decorator has wrapped; such an example belongs somewhere else.
    assert result.attempted == written(path) > 0


def test_no_code_in_a_docstring_is_written_in_a_way_that_does_not_run() -> None:
    """What is fenced as Python is an example, and examples are written with prompts; formats stand indented."""
    fenced = [path for path in sources() for text in docstrings(path) if FENCE.search(text)]
    assert not fenced


def test_there_are_examples_where_a_newcomer_begins() -> None:
    assert len(WITH_EXAMPLES) >= 12
