"""Fenced programs: what is run, where a turn ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.dialects import make_dialect
from retool_env.outcome import ToolStatus
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import ToolCall, ToolResult

DIALECT = make_dialect("markdown")
BLOCK = "```python\nprint(1)\n```\n"


@pytest.mark.parametrize(
    ("text", "code", "stopped"),
    [
        ("Let me. " + BLOCK + "```output", "print(1)", True),
        ("Let me.\n" + BLOCK + "```output\n", "print(1)", True),
        ("```py\nx = 1\nprint(x)\n```\nso\n```output", "x = 1\nprint(x)", True),
        ("```text\nno\n```\n" + BLOCK + "```output", "print(1)", True),
        (BLOCK + "```python\nprint(2)\n```\n```output", "print(2)", True),
        ("```python\nprint('```')\n```\n```output", "print('```')", True),
        ("Run:\n" + BLOCK, "print(1)", False),
        (r"\boxed{3} is a guess. " + BLOCK.strip(), "print(1)", False),
    ],
)
def test_calls(text: str, code: str, stopped: bool) -> None:
    turn = DIALECT.parse(text)
    assert turn.stopped == stopped
    assert [call.code for call in turn.calls] == [code]
    start, end = turn.calls[0].span
    assert code in text[start:end]
    assert not turn.calls[0].problem


@pytest.mark.parametrize(
    "text", ["```output", "prose\n```output", "```python\nprint(1)\n```output", "```js\n1\n```\n```output"]
)
def test_an_output_block_without_a_program_is_a_mistake(text: str) -> None:
    turn = DIALECT.parse(text)
    assert turn.stopped
    assert turn.calls[0].status is ToolStatus.MALFORMED
    assert "no closed python block" in turn.calls[0].problem


def test_an_empty_program_is_a_mistake() -> None:
    assert "empty" in DIALECT.parse("```python\n\n```\n```output").calls[0].problem


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}", "42"),
        (BLOCK + r"This would print it: \boxed{42}", "42"),
        ("```\nplain\n```", ""),
        ("```python\nprint(1)", ""),
        ("I give up", ""),
    ],
)
def test_answers(text: str, answer: str) -> None:
    turn = DIALECT.parse(text)
    assert (turn.calls, turn.answer, turn.stopped) == ((), answer, False)


@given(st.text(alphabet=st.sampled_from("`pythonutxt \n1\\boxed{}"), max_size=80) | st.text())
def test_parsing_never_raises(text: str) -> None:
    turn = DIALECT.parse(text)
    assert turn.stopped == ("```output" in text)
    assert len(turn.calls) <= 1
    for call in turn.calls:
        assert 0 <= call.span[0] < call.span[1] <= len(text)


def test_output_cannot_close_its_block() -> None:
    result = ToolResult(call=ToolCall(), status=ToolStatus.OK, text="```\nevil\n```")
    shown = DIALECT.render([result], stopped=True, tokenizer=ByteTokenizer())
    assert shown == "\n` ` `\nevil\n` ` `\n```\n"
    reply = DIALECT.render([result], stopped=False, tokenizer=ByteTokenizer())
    assert reply == "\n```output\n` ` `\nevil\n` ` `\n```\n"
