"""``code_interpreter`` on the real sandbox: notebook semantics, how a run ended in words, state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import JsonValue

from retool_env.dialects import make_dialect
from retool_env.episode import Episode, EpisodeLimits
from retool_env.errors import SandboxError, UsageError
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.sandbox import open_sandbox
from retool_env.sandbox.base import Limits, Sandbox
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import CodeInterpreter, ToolBox, ToolCall, ToolContext, ToolReply

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=60.0, memory_mb=128, stop_bytes=200_000)

# The endings of programs over which verl's recipe was measured: it wraps the last line in print().
ENDINGS = {
    "assignment": ("x = 6 * 7\nprint(x)\ny = x", "42"),
    "comment": ("print(42)\n# done", "42"),
    "indented line of a loop": ("for k in range(2):\n    print(k)", "0\n1"),
    "main guard": ("def main():\n    print(42)\nif __name__ == '__main__':\n    main()", "42"),
    "closing bracket of a call": ("print(\n    6 *\n    7,\n)", "42"),
    "semicolon": ("x = 42; print(x);", "42"),
    "import": ("print(42)\nimport math", "42"),
    "assert": ("x = 42\nprint(x)\nassert x == 42", "42"),
    "del": ("x = 42\nprint(x)\ndel x", "42"),
    "end of a triple-quoted string": ('print(42)\ntext = """\na\n"""', "42"),
    "last line of a function": ("print(42)\ndef f(x):\n    return x", "42"),
    "call that prints itself": ("def show():\n    print(42)\nshow()", "42"),
    "print": ("print(42)", "42"),
    "name": ("x = 42\nx", "42"),
    "expression": ("6 * 7", "42"),
    "expression over several lines": ("sum([\n    20,\n    22,\n])", "42"),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with open_sandbox("fork") as made:
        yield made


def run(tool: CodeInterpreter, code: JsonValue, **more: JsonValue) -> ToolReply:
    handle = tool.open(ToolContext())
    try:
        return handle.call({"code": code, **more}, seed=0)
    finally:
        handle.close()


@pytest.mark.parametrize("stateful", [False, True])
def test_none_of_sixteen_typical_endings_breaks(stateful: bool, sandbox: Sandbox) -> None:
    assert len(ENDINGS) == 16
    tool = CodeInterpreter(sandbox=sandbox, limits=LIMITS, stateful=stateful)
    handle = tool.open(ToolContext())
    replies = {name: handle.call({"code": code}, seed=0) for name, (code, _) in ENDINGS.items()}
    handle.close()
    assert {name: (reply.status, reply.text) for name, reply in replies.items()} == {
        name: (ToolStatus.OK, text) for name, (_, text) in ENDINGS.items()
    }


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        ("x = 1", ToolStatus.OK, "(no output)"),
        ("None", ToolStatus.OK, "(no output)"),
        ("print(1)\n'a' * 3", ToolStatus.OK, "1\naaa"),
        ("```python\nprint(42)\n```", ToolStatus.OK, "42"),
        ("\n```py\nprint(42)```\n", ToolStatus.OK, "42"),
        ("while True: pass", ToolStatus.TIMEOUT, "[timed out after 2 s]"),
        ("print('so far', flush=True)\nwhile True: pass", ToolStatus.TIMEOUT, "so far\n[timed out after 2 s]"),
        ("while True: print('x' * 1000)", ToolStatus.OUTPUT_LIMIT, "[stopped: too much output]"),
        ("import os; os.abort()", ToolStatus.KILLED, "[the program was killed]"),
        ("import os; os._exit(3)", ToolStatus.ERROR, "[the program ended with exit code 3]"),
    ],
)
def test_the_end_of_a_program_is_said_in_words(code: str, status: ToolStatus, text: str, sandbox: Sandbox) -> None:
    reply = run(CodeInterpreter(sandbox=sandbox, limits=LIMITS), code)
    assert reply.status is status
    assert reply.text == text or reply.text.endswith("\n" + text)


def test_a_time_out_names_the_limit_that_was_reached(sandbox: Sandbox) -> None:
    tool = CodeInterpreter(sandbox=sandbox, limits=Limits(cpu_seconds=0.5, wall_seconds=1.5))
    asleep, busy = run(tool, "import time; time.sleep(60)"), run(tool, "while True: pass")
    assert (asleep.status, asleep.text) == (ToolStatus.TIMEOUT, "[timed out after 1.5 s on the wall clock]")
    assert (busy.status, busy.text) == (ToolStatus.TIMEOUT, "[timed out after 0.5 s]")


def test_memory_is_said_in_words(sandbox: Sandbox) -> None:
    reply = run(CodeInterpreter(sandbox=sandbox, limits=LIMITS), "x = 'a' * 10**9")
    assert reply.status is ToolStatus.MEMORY
    assert reply.text.endswith("[out of memory: the limit is 128 MiB]")


def test_tracebacks_show_the_programs_own_frames(sandbox: Sandbox) -> None:
    code = "def f(x):\n    return 1 / x\nprint('first')\nf(0)"
    full = run(CodeInterpreter(sandbox=sandbox), code)
    assert full.status is ToolStatus.ERROR
    assert full.text.startswith("first\nTraceback (most recent call last):\n")
    assert full.text.endswith("ZeroDivisionError: division by zero")
    assert "return 1 / x" in full.text
    assert "retool" not in full.text and "/sandbox/" not in full.text
    short = run(CodeInterpreter(sandbox=sandbox, traceback="short"), code)
    assert short.text == "first\nZeroDivisionError: division by zero"
    syntax = run(CodeInterpreter(sandbox=sandbox, traceback="short"), "print(")
    assert syntax.text.startswith("SyntaxError: ")


@pytest.mark.parametrize(
    ("code", "more", "text"),
    [
        (3, {}, "Error: argument 'code' of code_interpreter: expected a valid string, got 3"),
        ("1", {"language": "python"}, "Error: code_interpreter has no argument 'language'; known: code"),
        ("  \n", {}, "Error: the program is empty; nothing was run."),
    ],
)
def test_wrong_arguments_are_named(code: JsonValue, more: dict[str, JsonValue], text: str, sandbox: Sandbox) -> None:
    for stateful in (False, True):
        reply = run(CodeInterpreter(sandbox=sandbox, stateful=stateful), code, **more)
        assert (reply.status, reply.text) == (ToolStatus.BAD_ARGUMENTS, text)


def test_a_session_keeps_its_state_and_a_program_that_fails_takes_only_its_own(sandbox: Sandbox) -> None:
    tool = CodeInterpreter(sandbox=sandbox, limits=LIMITS, stateful=True)
    box = ToolBox([tool])
    session, other = box.open(), box.open()

    def cell(code: str) -> tuple[ToolStatus, str]:
        (result,) = session.run([ToolCall(arguments={"code": code})], seed=0)
        return result.status, result.text

    assert cell("x = 41") == (ToolStatus.OK, "(no output)")
    assert cell("x + 1") == (ToolStatus.OK, "42")
    status, text = cell("x = 0\nwhile True: pass")
    assert (status, text) == (ToolStatus.TIMEOUT, "[timed out after 2 s; the variables are as they were before it]")
    assert cell("x") == (ToolStatus.OK, "41")
    status, text = cell("x = 7\n1 / 0")
    assert status is ToolStatus.ERROR and "ZeroDivisionError" in text
    assert cell("x") == (ToolStatus.OK, "7")
    (result,) = other.run([ToolCall(arguments={"code": "x"})], seed=0)
    assert "NameError" in result.text
    session.close()
    other.close()


def test_calls_of_one_turn_see_each_other_in_order_when_there_is_a_session(sandbox: Sandbox) -> None:
    calls = [ToolCall(arguments={"code": code}) for code in ("x = 1", "x += 1", "x * 21")]
    box = ToolBox([CodeInterpreter(sandbox=sandbox, stateful=True)])
    session = box.open()
    assert [result.text for result in session.run(calls, seed=0)] == ["(no output)", "(no output)", "42"]
    session.close()
    fresh = ToolBox([CodeInterpreter(sandbox=sandbox)]).open()
    assert [result.status for result in fresh.run(calls, seed=0)] == [ToolStatus.OK, ToolStatus.ERROR, ToolStatus.ERROR]


def test_a_seed_decides_what_is_random(sandbox: Sandbox) -> None:
    box = ToolBox([CodeInterpreter(sandbox=sandbox)])
    call = ToolCall(arguments={"code": "import random; random.random()"})
    first, again, other = (box.open().run([call, call], seed=seed) for seed in (1, 1, 2))
    assert [result.text for result in first] == [result.text for result in again]
    assert len({result.text for result in [*first, *other]}) == 4


@pytest.mark.parametrize("stateful", [False, True])
def test_files_of_a_problem_lie_in_the_working_directory(stateful: bool, sandbox: Sandbox) -> None:
    box = ToolBox([CodeInterpreter(sandbox=sandbox, stateful=stateful)])
    kwargs = {"code_interpreter": {"create_kwargs": {"files": {"data.txt": "42"}, "ground_truth": "42"}}}
    session = box.open(tools_kwargs=kwargs)
    call = ToolCall(arguments={"code": "print(open('data.txt').read())"})
    assert [session.run([call], seed=0)[0].text for _ in range(2)] == ["42", "42"]
    session.close()


def test_in_a_session_a_program_may_change_the_files_for_good(sandbox: Sandbox) -> None:
    session = CodeInterpreter(sandbox=sandbox, stateful=True).open(ToolContext(kwargs={"files": {"a.txt": "1"}}))
    codes = ("open('a.txt').read()", "open('a.txt', 'w').write('2');", "open('a.txt').read()")
    assert [session.call({"code": code}, seed=0).text for code in codes][::2] == ["1", "2"]
    session.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"flies": {}}, "code_interpreter has no setting 'flies'; did you mean 'files'"),
        ({"files": ["a"]}, "expected a mapping from file name to text"),
        ({"files": {"../x": "1"}}, r"code_interpreter: files: file name '\.\./x': must be a relative path"),
        ({"files": {"a": "1", "a/b": "2"}}, "files 'a' and 'a/b': the first cannot be a folder too; rename one"),
    ],
)
def test_settings_that_cannot_work_are_named(kwargs: dict[str, JsonValue], message: str, sandbox: Sandbox) -> None:
    with pytest.raises(UsageError, match=message):
        CodeInterpreter(sandbox=sandbox).open(ToolContext(kwargs=kwargs))
    box = ToolBox([CodeInterpreter(sandbox=sandbox)])
    with pytest.raises(UsageError, match=message):
        box.open(tools_kwargs={"code_interpreter": {"create_kwargs": kwargs}})


@pytest.mark.parametrize("stateful", [False, True])
def test_a_sandbox_that_is_gone_is_an_outage(stateful: bool) -> None:
    sandbox = open_sandbox("fork")
    sandbox.close()
    session = ToolBox([CodeInterpreter(sandbox=sandbox, stateful=stateful)]).open()
    (result,) = session.run([ToolCall(arguments={"code": "1"})], seed=0)
    assert result.status is ToolStatus.OUTAGE
    assert result.text in ("[the interpreter is not available]", "[code_interpreter is not available]")
    if stateful:
        with pytest.raises(SandboxError):
            sandbox.open_session()


def test_long_output_is_cut_in_tokens_and_says_so(sandbox: Sandbox) -> None:
    tokenizer = ByteTokenizer()
    episode = Episode(
        Problem(id="p", prompt="?", answer="1"),
        dialect=make_dialect("retool", instructions=False),
        tokenizer=tokenizer,
        limits=EpisodeLimits(max_tool_tokens=40),
    )
    calls = episode.act(tokenizer.encode("<code>print('a' * 300 + 'z' * 300)</code>"))
    episode.observe(ToolBox([CodeInterpreter(sandbox=sandbox)]).open().run(calls, seed=0))
    shown = tokenizer.decode(episode.token_ids).partition("<interpreter>\n")[2]
    assert shown == "a" * 20 + "\n[... 560 tokens cut ...]\n" + "z" * 20 + "\n</interpreter>\n"
