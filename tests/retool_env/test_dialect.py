"""The tag format: what counts as a call, as an answer, as a mistake."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from retool_env.dialects import make_dialect
from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.problems import Message, Problem
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import ToolCall, ToolResult, interpreter_spec

DIALECT = make_dialect("retool")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<code>\n```python\nprint(1)\n```\n</code>", "print(1)"),
        ("<code>print(1)</code>", "print(1)"),
        ("text <code>\n```py\nx = 1\nprint(x)\n```\n</code>", "x = 1\nprint(x)"),
        ("<code>```\nprint(1)\n```</code>", "print(1)"),
        ("<code>\n```Python\nprint(1)\n</code>", "print(1)"),
        ("a <code> b <code>print(2)</code>", "print(2)"),
        ("<code>\nif 1:\n    print(1)\n</code>", "if 1:\n    print(1)"),
        ("<code>print('</co' + 'de>')</code> and more", "print('</co' + 'de>')"),
        ('<code>\ns="<code>"\nprint(s)\n</code>', 's="<code>"\nprint(s)'),
        ("I'll use <code>.\n<code>\nprint('<code>')  # <code>\n</code>", "print('<code>')  # <code>"),
        ("Put it in '<code>' tags: <code>print(1)</code>", "print(1)"),
        ('<code>\n```python\nd = """\n```\nx\n```\n"""\nprint(1)\n```\n</code>', 'd = """\n```\nx\n```\n"""\nprint(1)'),
        ('<code>\nd = """\n```\nx\n```\n"""\n</code>', 'd = """\n```\nx\n```\n"""'),
        ("<code>\nIt's this:\n```python\nprint('```')\n```\nIt's done.\n</code>", "print('```')"),
        ("<code>\n```python\nprint(1)\n```\nOutput:\n```\n1\n```\n</code>", "print(1)"),
        ("<code>\n```python\nprint(1)```</code>", "print(1)"),
    ],
)
def test_calls(text: str, code: str) -> None:
    turn = DIALECT.parse(text)
    assert turn.stopped
    assert [call.code for call in turn.calls] == [code]
    assert not turn.calls[0].problem


@pytest.mark.parametrize(
    "text", ["no opening</code>", "<code></code>", "<code>\n```python\n\n```\n</code>", "</code><code>x"]
)
def test_malformed_calls_say_what_is_wrong(text: str) -> None:
    (call,) = DIALECT.parse(text).calls
    assert call.problem.startswith("Error: ")
    assert not call.code


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"<answer>\boxed{42}</answer>", "42"),
        (r"so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("I do not know", ""),
        (r"<code>\boxed{1}", ""),
        (r"<interpreter>\boxed{1}</interpreter>", ""),
    ],
)
def test_answers(text: str, answer: str) -> None:
    turn = DIALECT.parse(text)
    assert (turn.calls, turn.answer, turn.stopped) == ((), answer, False)


@given(st.text())
def test_parsing_never_raises(text: str) -> None:
    turn = DIALECT.parse(text)
    assert turn.stopped == ("</code>" in text)


def test_prompts() -> None:
    problem = Problem(id="p", prompt="What is 1 + 1?", answer="2")
    (message,) = DIALECT.build_prompt(problem, [interpreter_spec()])
    assert message.role == "user"
    assert message.content.endswith("Problem:\nWhat is 1 + 1?")
    assert r"\boxed{...}" in message.content
    bare = make_dialect("retool", instructions=False).build_prompt(problem, [interpreter_spec()])
    assert bare == (Message(role="user", content="What is 1 + 1?"),)


def test_chat_prompts_keep_their_earlier_messages() -> None:
    system = Message(role="system", content="Be brief.")
    problem = Problem(id="p", prompt=(system, Message(role="user", content="1+1?")), answer="2")
    first, second = DIALECT.build_prompt(problem, [interpreter_spec()])
    assert first == system
    assert second.content.endswith("Problem:\n1+1?")


def test_rendering_disarms_tags() -> None:
    result = ToolResult(call=ToolCall(arguments={"code": "x"}), status=ToolStatus.OK, text="</interpreter><code>")
    assert (
        DIALECT.render([result], stopped=True, tokenizer=ByteTokenizer())
        == "\n<interpreter>\n< /interpreter>< code>\n</interpreter>\n"
    )


def test_unknown_dialect_is_named() -> None:
    with pytest.raises(UsageError, match=r"no dialect 'retol'; did you mean 'retool'\?"):
        make_dialect("retol")


@pytest.mark.parametrize("name", ["retool", "markdown"])
@given(code=st.text(alphabet="ab1\n\t '\"<>()`", min_size=1), text=st.sampled_from(["", "I compute.\n"]))
def test_a_program_that_is_written_is_read_back(name: str, code: str, text: str) -> None:
    assume(code.strip() and "```" not in code and not code.startswith("\n") and not code.endswith("\n"))
    dialect = make_dialect(name)
    turn = dialect.parse(dialect.write(text, [ToolCall(arguments={"code": code})]))
    assert turn.stopped
    assert [call.code for call in turn.calls] == [code]
    assert dialect.write(text, []) == text


@given(
    texts=st.lists(st.sampled_from(["<code>", "\n```\n", "```python\n", "it's", "\n", "x"]), max_size=4).map("".join),
    before=st.sampled_from(["", "I'll use <code> now.\n", "The tag '<code>' opens one.\n"]),
)
def test_tags_and_fences_in_strings_belong_to_the_program(texts: str, before: str) -> None:
    code = f'd = """{texts}"""  # <code>\ns = {texts!r}\nprint(s)'
    (call,) = DIALECT.parse(DIALECT.write(before, [ToolCall(arguments={"code": code})])).calls
    assert (call.code, call.span[0]) == (code, len(before))


def test_a_turn_of_nothing_but_tags_and_quotes_costs_no_time() -> None:
    for piece in ("<code>", "<code>'", '\\"""<code>', "```py\n'", "<code>#"):
        DIALECT.parse(20_000 * piece + "</code>")


@pytest.mark.parametrize("name", ["retool", "markdown"])
@pytest.mark.parametrize("calls", [[ToolCall(), ToolCall()], [ToolCall(name="add")]])
def test_only_one_program_can_be_written(name: str, calls: list[ToolCall]) -> None:
    with pytest.raises(UsageError, match="writes one program in a turn"):
        make_dialect(name).write("", calls)
