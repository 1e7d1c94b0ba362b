"""Typed functions as tools: schemas, validation, errors as text, time limits."""

from __future__ import annotations

import enum
import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.tools import FunctionTool, ToolContext, ToolSpec, describe_tools, function_tool
from retool_env.tools.docstring import parse_docstring
from retool_env.tools.function import MAX_LATE

CONTEXT = ToolContext()


class Currency(enum.Enum):
    EUR = "eur"
    USD = "usd"


class Loan(BaseModel):
    principal: float = Field(description="Borrowed amount.", gt=0)
    title: str = "loan"


class Book(BaseModel):
    loans: list[Loan]
    spare: Optional[Loan] = None  # noqa: UP045  the older spelling is common in users' files


class Tree(BaseModel):
    children: list[Tree] = []


def everything(
    text: str,
    count: int,
    rate: float,
    flag: bool,
    numbers: list[float],
    table: dict[str, int],
    kind: Literal["simple", "compound"],
    loan: Loan,
    limit: int | None = None,
    currency: Currency = Currency.EUR,
    schema: str = "a name that pydantic's models use themselves",
) -> str:
    """Take one of each.

    A second paragraph.

    Args:
        text: Some text.
        count (int): How many,
            on two lines.
        rate: A rate.
        numbers: Numbers.

    Returns:
        All of it.

    Raises:
        ValueError: never.
    """
    return (
        f"{text} {count} {rate} {flag} {numbers} {table} {kind} {loan.principal:g} {limit} {currency.name} {schema[:6]}"
    )


GOOD: dict[str, Any] = {
    "text": "t",
    "count": 3,
    "rate": 2,
    "flag": True,
    "numbers": [1, 2.5],
    "table": {"a": 1},
    "kind": "simple",
    "loan": {"principal": 10},
}


def run(tool: FunctionTool, **arguments: Any) -> tuple[ToolStatus, str]:
    reply = tool.run(arguments, CONTEXT)
    return reply.status, reply.text


def test_the_schema_says_what_the_signature_says() -> None:
    assert function_tool(everything).spec.openai() == {
        "type": "function",
        "function": {
            "name": "everything",
            "description": "Take one of each.\n\nA second paragraph.",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string", "description": "Some text."},
                    "count": {"type": "integer", "description": "How many, on two lines."},
                    "rate": {"type": "number", "description": "A rate."},
                    "flag": {"type": "boolean"},
                    "numbers": {"type": "array", "items": {"type": "number"}, "description": "Numbers."},
                    "table": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "kind": {"type": "string", "enum": ["simple", "compound"]},
                    "loan": {
                        "type": "object",
                        "properties": {
                            "principal": {"type": "number", "exclusiveMinimum": 0, "description": "Borrowed amount."},
                            "title": {"type": "string", "default": "loan"},
                        },
                        "required": ["principal"],
                    },
                    "limit": {"type": "integer"},
                    "currency": {"type": "string", "enum": ["eur", "usd"], "default": "eur"},
                    "schema": {"type": "string", "default": "a name that pydantic's models use themselves"},
                },
                "required": ["text", "count", "rate", "flag", "numbers", "table", "kind", "loan"],
            },
        },
    }


def test_values_arrive_as_the_types_they_were_declared_with() -> None:
    expected = "t 3 2.0 True [1.0, 2.5] {'a': 1} simple 10 None EUR a name"
    assert run(function_tool(everything), **GOOD) == (ToolStatus.OK, expected)
    given = GOOD | {"limit": 7, "currency": "usd", "schema": "x"}
    assert run(function_tool(everything), **given)[1].endswith("10 7 USD x")
    assert run(function_tool(everything), **GOOD, limit=None)[0] is ToolStatus.OK


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "3"}, "Error: argument 'count' of everything: expected a valid integer, got \"3\""),
        ({"count": 3.0}, "Error: argument 'count' of everything: expected a valid integer, got 3.0"),
        ({"count": True}, "Error: argument 'count' of everything: expected a valid integer, got true"),
        ({"rate": "2%"}, "Error: argument 'rate' of everything: expected a valid number, got \"2%\""),
        ({"text": 1}, "Error: argument 'text' of everything: expected a valid string, got 1"),
        ({"flag": 1}, "Error: argument 'flag' of everything: expected a valid boolean, got 1"),
        ({"numbers": [1, "b"]}, "Error: argument 'numbers.1' of everything: expected a valid number, got \"b\""),
        ({"kind": "both"}, "Error: argument 'kind' of everything: expected 'simple' or 'compound', got \"both\""),
        (
            {"loan": {"principal": -1}},
            "Error: argument 'loan.principal' of everything: expected greater than 0, got -1",
        ),
        ({"loan": {}}, "Error: argument 'loan.principal' of everything is missing"),
        ({"cuont": 3}, "Error: everything has no argument 'cuont'; did you mean 'count'?"),
        ({"text": [None] * 100}, "got [null, null"),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_expected(change: dict[str, Any], message: str) -> None:
    status, text = run(function_tool(everything), **GOOD | change)
    assert status is ToolStatus.BAD_ARGUMENTS
    assert message in text
    assert len(text) < 200


def test_every_wrong_argument_gets_a_line() -> None:
    status, text = run(function_tool(everything), text=1, extra=2)
    assert status is ToolStatus.BAD_ARGUMENTS
    lines = text.splitlines()
    assert len(lines) == 9
    assert sum("is missing" in line for line in lines) == 7


@given(
    st.dictionaries(st.sampled_from([*GOOD, "limit", "other"]), st.none() | st.integers() | st.text() | st.just([{}]))
)
def test_arguments_never_raise(arguments: dict[str, Any]) -> None:
    status, text = run(function_tool(everything), **arguments)
    assert (status, text[:5]) in ((ToolStatus.BAD_ARGUMENTS, "Error"),)


def test_nested_models_are_put_in_place() -> None:
    def audit(book: Annotated[Book, Field(description="All of it.")]) -> int:
        """Count."""
        return len(book.loans)

    tool = function_tool(audit)
    loan = {
        "type": "object",
        "properties": {
            "principal": {"type": "number", "exclusiveMinimum": 0, "description": "Borrowed amount."},
            "title": {"type": "string", "default": "loan"},
        },
        "required": ["principal"],
    }
    assert tool.spec.parameters["properties"] == {
        "book": {
            "description": "All of it.",
            "type": "object",
            "properties": {"loans": {"type": "array", "items": loan}, "spare": loan},
            "required": ["loans"],
        }
    }
    assert run(tool, book={"loans": [{"principal": 1}] * 3}) == (ToolStatus.OK, "3")


def no_docstring(a: int) -> int:
    return a


def no_type(a) -> int:  # type: ignore[no-untyped-def]
    """Add."""
    return a


def variadic(*numbers: int) -> int:
    """Add."""
    return sum(numbers)


def unknown_type(a: Nowhere) -> int:  # type: ignore[name-defined]  # noqa: F821
    """Add."""
    return a


def wrong_docs(a: int) -> int:
    """Add.

    Args:
        b: Not there.
    """
    return a


def endless(a: Tree) -> int:
    """Add."""
    return 1


def opaque(a: threading.Lock) -> int:
    """Add."""
    return 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "tool 'no_docstring' has no docstring"),
        (no_type, "parameter 'a' has no type; annotate it"),
        (variadic, r"parameter .\*numbers: .*int.* cannot be given by name"),
        (unknown_type, "annotations cannot be resolved .*Nowhere"),
        (wrong_docs, "its docstring describes 'b', which is no parameter"),
        (endless, "'Tree' contains itself"),
        (opaque, "tool 'opaque': no JSON schema describes it"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused(function: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        function_tool(function)


def test_a_name_that_endpoints_refuse_is_refused() -> None:
    with pytest.raises(UsageError, match="tool 'a b': name: String should match"):
        function_tool(everything, name="a b")


@dataclass
class Point:
    x: int
    y: float


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        (3, "3"),
        (0.5, "0.5"),
        (None, "null"),
        ({"é": [1, True]}, '{"é":[1,true]}'),
        (Point(1, 2.0), '{"x":1,"y":2.0}'),
        (Loan(principal=2), '{"principal":2.0,"title":"loan"}'),
        (float("inf"), "Infinity"),
        (2 + 3j, '"2+3j"'),
        (threading.local, "\"<class '_thread._local'>\""),
    ],
)
def test_what_a_function_returns_is_shown(value: Any, text: str) -> None:
    def give() -> Any:
        """Give."""
        return value

    assert run(function_tool(give)) == (ToolStatus.OK, text)


@pytest.mark.parametrize("timeout", [5.0, None])
def test_exceptions_come_back_as_text_without_our_frames(timeout: float | None) -> None:
    def fail(kind: str) -> None:
        """Fail."""
        raise {"value": ValueError("no such bond"), "exit": SystemExit(3), "bare": KeyError()}[kind]

    tool = function_tool(fail, timeout=timeout)
    for kind, text in (("value", "ValueError: no such bond"), ("exit", "SystemExit: 3"), ("bare", "KeyError")):
        assert run(tool, kind=kind) == (ToolStatus.ERROR, text)


def test_coroutines_are_run_to_their_end() -> None:
    async def later(a: int) -> int:
        """Later."""
        import asyncio

        await asyncio.sleep(0)
        return a + 1

    assert run(function_tool(later), a=1) == (ToolStatus.OK, "2")


def test_a_function_that_takes_too_long_is_given_up_and_what_it_returns_is_dropped() -> None:
    release, done = threading.Event(), threading.Event()

    def wait(first: bool) -> str:
        """Wait."""
        if first:
            release.wait(60)
            done.set()
        return f"first={first}"

    tool = function_tool(wait, timeout=0.2)
    assert run(tool, first=True) == (ToolStatus.TIMEOUT, "[wait timed out after 0.2 s]")
    patient = function_tool(wait, timeout=60)
    assert run(patient, first=False) == (ToolStatus.OK, "first=False")
    release.set()
    assert done.wait(60)
    assert run(patient, first=False) == (ToolStatus.OK, "first=False")


def test_too_many_calls_that_run_on_make_a_tool_unavailable_until_they_end() -> None:
    release = threading.Event()

    def wait() -> str:
        """Wait."""
        release.wait(60)
        return "done"

    tool = function_tool(wait, timeout=0.01)
    assert {run(tool)[0] for _ in range(MAX_LATE)} == {ToolStatus.TIMEOUT}
    assert run(tool) == (ToolStatus.OUTAGE, "[wait is not available]")
    release.set()
    for thread in threading.enumerate():
        if thread.name == "tool wait":
            thread.join(60)
    patient = [run(tool)[0] for _ in range(20)]
    assert ToolStatus.OUTAGE not in patient
    with pytest.raises(UsageError, match=r"timeout=0: must be more than 0"):
        function_tool(wait, timeout=0)


def test_a_parameter_for_the_context_is_not_the_models() -> None:
    def look_up(key: str, context: ToolContext) -> str:
        """Look something up in the problem's own table.

        Args:
            key: Which row.
        """
        table = context.kwargs["table"]
        assert isinstance(table, dict)
        return f"{table[key]} {context.seed}"

    tool = function_tool(look_up)
    assert tool.spec.signature == "look_up(key: string)"
    handle = tool.open(ToolContext(seed=5, kwargs={"table": {"a": 1}}))
    assert handle.call({"key": "a"}, seed=0).text == "1 5"
    forged = handle.call({"key": "a", "context": 1}, seed=0)
    assert forged.status is ToolStatus.BAD_ARGUMENTS
    assert "look_up has no argument 'context'" in forged.text


def test_the_examples_in_the_docstrings_run() -> None:
    import doctest

    import retool_env.tools.function

    assert doctest.testmod(retool_env.tools.function) == (0, 4)


def test_signatures_are_readable() -> None:
    signature = function_tool(everything).spec.signature
    assert signature.startswith(
        "everything(text: string, count: integer, rate: number, flag: boolean, numbers: array of"
    )
    assert (
        "kind: 'simple' | 'compound', loan: object, limit: integer = None, currency: 'eur' | 'usd' = 'eur'" in signature
    )
    assert describe_tools([ToolSpec(name="a", description="One.\nTwo.", parameters={})]) == "a(): One."


@pytest.mark.parametrize(
    ("text", "description", "arguments"),
    [
        ("Add.", "Add.", {}),
        ("Add.\n\n    More: yes.\n\n    Args:\n        a: One.\n", "Add.\n\nMore: yes.", {"a": "One."}),
        (
            "Add.\n\nArgs:\n  a (int, optional): One\n    more.\n  *b: Two: three.\n\nReturns:\n  x: y",
            "Add.",
            {"a": "One more.", "b": "Two: three."},
        ),
        ("Add.\n\nParameters:\n    a:\n        One.\n", "Add.", {"a": "One."}),
        ("", "", {}),
        ("Args:\n    a: One.", "", {"a": "One."}),
    ],
)
def test_docstrings(text: str, description: str, arguments: dict[str, str]) -> None:
    parsed = parse_docstring(text)
    assert (parsed.description, parsed.arguments) == (description, arguments)


@given(st.text(alphabet=st.sampled_from("Args: \n\tab(*)"), max_size=60))
def test_docstrings_never_raise(text: str) -> None:
    assert isinstance(parse_docstring(text).arguments, dict)


@given(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"]))
)
def test_whatever_fits_the_types_arrives_unchanged(a: int, b: float, c: str) -> None:
    def echo(a: int, b: float, c: str) -> list[Any]:
        """Echo."""
        return [a, b, c]

    _, text = run(function_tool(echo, timeout=None), a=a, b=b, c=c)
    assert TypeAdapter(list[Any]).validate_json(text) == [a, b, c]
