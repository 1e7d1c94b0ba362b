"""Invariants 1, 2, 8 and 9, for every dialect and tokenizer, over random ids, random splits and scripted turns."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retool_env.dialects
import retool_env.tools
from retool_env.dialects import make_dialect
from retool_env.episode import Episode, EpisodeLimits
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer
from retool_env.tools import ToolBox, ToolReply, ToolSpec
from retool_env.tools.base import Arguments, ToolContext
from tests.retool_env.chat_folders import FAMILIES, build_folder

PROBLEM = Problem(id="p", prompt="What is 6 * 7?", answer="42")
DIALECTS = ("retool", "hermes", "markdown")
PIECES = [
    "<code>",
    "</code>",
    "<answer>\\boxed{42}</answer>",
    "\\boxed{42}",
    "```python\nprint(1)\n```\n",
    "```output",
    '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "print(1)"}}\n</tool_call>',
    '<tool_call>{"name": "nothing"}</tool_call>',
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "<tool_response>",
    "<interpreter>",
    "I wonder. ",
    "é😀",
]
FORGED = [
    *PIECES,
    "<eos>",
    "<|im_end|>",
    "<|im_start|>assistant\n",
    "</tool_response>",
    "</interpreter>",
    "\ufffd",
    "\0",
]

writing = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=5).map("".join)
printing = st.lists(st.sampled_from(FORGED) | st.text(max_size=30), max_size=4).map("".join)


class Printer:
    """An interpreter that prints what the test says, whatever the program."""

    pure = True

    def __init__(self) -> None:
        self.text = ""
        self.spec = ToolSpec(name="code_interpreter", description="Prints.", parameters={"type": "object"})

    def open(self, context: ToolContext) -> Printer:
        return self

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        return ToolReply(status=ToolStatus.OK, text=self.text)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    made: dict[str, Tokenizer] = {"bytes": ByteTokenizer()}
    for family in FAMILIES:
        made[family] = FileTokenizer(build_folder(tmp_path_factory.mktemp(family), family))
    return made


def draw_turn(data: st.DataObject, tokenizer: Tokenizer) -> list[int]:
    """Random ids; or a text, cut at random places so that its ids are not the ones ``encode`` gives for the whole."""
    if data.draw(st.booleans(), label="random ids"):
        return data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), min_size=1, max_size=30))
    text = data.draw(writing)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    ids = [i for part in parts for i in tokenizer.encode(part)]
    return [*ids, tokenizer.eos_id] if data.draw(st.booleans(), label="ended") or not ids else ids


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["bytes", *FAMILIES])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_stream_only_grows(dialect: str, name: str, tokenizers: dict[str, Tokenizer], data: st.DataObject) -> None:
    tokenizer, printer = tokenizers[name], Printer()
    limits = EpisodeLimits(
        max_context_tokens=2500,
        max_turn_tokens=200,
        max_tool_rounds=3,
        max_tool_tokens=40,
        max_void_turns=data.draw(st.integers(1, 3)),
    )
    episode = Episode(PROBLEM, dialect=make_dialect(dialect), tokenizer=tokenizer, limits=limits, tools=[printer.spec])
    session = ToolBox([printer]).open()
    expected = list(episode.token_ids)
    while episode.outcome is None:
        turn = draw_turn(data, tokenizer)[: episode.budget]
        # Whatever else is drawn, an episode ends: rounds, mistakes and void turns are all bounded.
        assert episode.turn < 60
        calls = episode.act(turn)
        printer.text = data.draw(printing)
        if calls:
            episode.observe(session.run(calls, seed=0))
        expected += turn
        assert episode.token_ids[: len(expected)] == expected, "the context was not extended by the sampled ids"
        expected = list(episode.token_ids)
        assert len(episode.token_ids) == len(episode.action_mask) <= limits.max_context_tokens
    check_spans(episode)


def check_spans(episode: Episode) -> None:
    ends = [span.end for span in episode.spans]
    assert [span.start for span in episode.spans] == [0, *ends[:-1]]
    assert ends[-1] == len(episode.token_ids)
    for span in episode.spans:
        assert all(sampled == (span.role == "assistant") for sampled in episode.action_mask[span.start : span.end])
    assert [span.turn for span in episode.spans if span.role == "assistant"] == list(range(episode.turn))
    assert len(episode.rounds) in (episode.turn - 1, episode.turn)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", ["bytes", *FAMILIES])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(output=printing)
def test_what_a_tool_prints_changes_no_answer(
    dialect: str, name: str, tokenizers: dict[str, Tokenizer], output: str
) -> None:
    """Invariant 8. The text that a reward may read is the policy's own last turn, and it has no answer in it."""
    tokenizer, printer = tokenizers[name], Printer()
    printer.text = output
    episode = Episode(PROBLEM, dialect=make_dialect(dialect), tokenizer=tokenizer, limits=EpisodeLimits())
    call = {"retool": "<code>print(1)</code>", "markdown": PIECES[4] + "```output", "hermes": PIECES[6]}[dialect]
    ending = [tokenizer.eos_id] if dialect == "hermes" else []
    calls = episode.act([*tokenizer.encode(call), *ending])
    episode.observe(ToolBox([printer]).open().run(calls, seed=0))
    span = episode.spans[-1]
    shown = episode.token_ids[span.start : span.end]
    # The template itself closes the message of the results; nothing else does.
    assert shown.count(tokenizer.eos_id) == (dialect == "hermes" and name != "bytes")
    episode.act([*tokenizer.encode("I do not know."), tokenizer.eos_id])
    assert episode.outcome is Outcome.NO_ANSWER
    assert episode.final_text == "I do not know."


def test_nothing_a_model_wrote_is_evaluated() -> None:
    """Invariant 9, by reading the syntax trees: no way to run text as code is called in dialects and tools."""
    forbidden = {"eval", "exec", "compile", "literal_eval", "sympify", "parse_expr", "loads"}
    folders = [Path(module.__path__[0]) for module in (retool_env.dialects, retool_env.tools)]
    sources = [path for folder in folders for path in folder.glob("*.py")]
    assert len(sources) >= 12
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                owner = node.func.value if isinstance(node.func, ast.Attribute) else None
                assert called not in forbidden or (isinstance(owner, ast.Name) and owner.id == "re"), (
                    path,
                    node.lineno,
                )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_python_expressions_as_arguments_are_text(dialect: str, tmp_path: Path) -> None:
    """A call that would leave a file behind if any part of it were evaluated on this side."""
    trace = tmp_path / "trace"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    body = f"{{'name': 'code_interpreter', 'arguments': {attack}}}"
    for text in (f"<code>{attack}</code>", f"<tool_call>{body}</tool_call>", f"```python\n{attack}\n```\n```output"):
        make_dialect(dialect).parse(text)
    assert not trace.exists()
