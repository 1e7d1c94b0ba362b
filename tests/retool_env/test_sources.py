"""Problem sources: determinism, the split, real GSM8K, and traces whose outputs are real."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from retool_env.dialects import make_dialect
from retool_env.episode import EpisodeLimits
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.recorded import RecordedTurn, Recording, replay
from retool_env.sandbox import open_sandbox
from retool_env.sources import open_source
from retool_env.sources.arithmetic import FAMILIES, ArithmeticSource
from retool_env.sources.gsm8k import calculator_annotations
from retool_env.sources.traces import TracePhase, arithmetic_traces
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import CodeInterpreter, ToolBox
from retool_env.verifier import gradable

MIXED = TracePhase(share=1, tool_easy=0.3, tool_hard=0.3, no_print=0.2, repair=0.2)


def test_problems_depend_on_seed_and_index_alone() -> None:
    one, two = ArithmeticSource(seed=3), ArithmeticSource(seed=3)
    forward = [one.problem(i) for i in range(50)]
    assert [two.problem(i) for i in reversed(range(50))][::-1] == forward
    assert ArithmeticSource(seed=4).problem(0) != forward[0]


def test_no_held_out_problem_is_a_training_problem() -> None:
    heldout = {open_source(size=500, split="heldout").problem(i).prompt for i in range(500)}
    assert len(heldout) == 500
    for seed in range(3):
        source = ArithmeticSource(seed=seed)
        assert heldout.isdisjoint(source.problem(i).prompt for i in range(2000))


def test_held_out_operands_of_hard_families_are_never_trained_on() -> None:
    heldout = [open_source(size=500, split="heldout").problem(i) for i in range(500)]
    expressions = {p.metadata["expression"] for p in heldout if p.family != "add"}
    source = ArithmeticSource(seed=0, families={"powmod": 1, "gcd": 1, "digit_sum": 1})
    assert expressions.isdisjoint(source.problem(i).metadata["expression"] for i in range(2000))


def test_the_held_out_set_is_balanced_and_the_same_for_everyone() -> None:
    first, second = (open_source(size=500, split="heldout") for _ in range(2))
    problems = [first.problem(i) for i in range(500)]
    assert problems == [second.problem(i) for i in range(500)]
    assert Counter(p.family for p in problems) == dict.fromkeys(FAMILIES, 100)


def test_answers_are_below_1000_and_gradable() -> None:
    source = ArithmeticSource(seed=1)
    for index in range(500):
        answer = source.problem(index).answer
        assert 0 <= int(answer) < 1000
        assert gradable(answer)


def test_family_weights() -> None:
    source = ArithmeticSource(families={"add": 1, "gcd": 3})
    counts = Counter(source.problem(i).family for i in range(2000))
    assert set(counts) == {"add", "gcd"}
    assert 0.7 <= counts["gcd"] / 2000 <= 0.8
    for bad in ({"add": -1.0}, {"add": 0.0}, {}, {"add": float("nan")}):
        with pytest.raises(UsageError, match=r"problems\.families"):
            ArithmeticSource(families=bad).problem(0)


def test_real_gsm8k(gsm8k_test: Path) -> None:
    source = open_source("gsm8k", path=gsm8k_test)
    assert source.size == 1319
    problems = [source.problem(i) for i in range(1319)]
    assert all(gradable(problem.answer) for problem in problems)
    assert sum(not calculator_annotations(problem) for problem in problems) == 18
    assert open_source("gsm8k", path=gsm8k_test, size=10).size == 10


@pytest.mark.parametrize("name", ["retool", "hermes", "markdown"])
def test_trace_outputs_are_what_the_interpreter_gives(name: str) -> None:
    """The recorded outputs are computed by the generator; here the programs run for real."""
    dialect = make_dialect(name)
    with open_sandbox("fork") as sandbox:
        session = ToolBox([CodeInterpreter(sandbox=sandbox, traceback="short")]).open()
        seen: Counter[str] = Counter()
        for trace in arithmetic_traces(150, seed=2, phases=[MIXED], dialect=dialect):
            for turn in trace.turns:
                for call, output in zip(dialect.parse(turn.text).calls, turn.outputs, strict=True):
                    (result,) = session.run([call], seed=0)
                    assert (result.text, result.status) == (output, turn.status)
                    seen[result.text if "(" in result.text or "Error" in result.text else "number"] += 1
    assert set(seen) == {"number", "(no output)", "NameError: name 'prin' is not defined"}


def test_traces_are_mixed_as_asked() -> None:
    phases = [
        TracePhase(share=0.5, tool_easy=1, tool_hard=1, no_print=0, repair=0),
        TracePhase(share=0.5, tool_easy=0, tool_hard=0, no_print=0, repair=0),
    ]
    traces = list(arithmetic_traces(400, seed=0, phases=phases))
    assert [bool(trace.turns[0].outputs) for trace in traces] == [True] * 200 + [False] * 200
    wrong = [t for t in traces[200:] if t.problem.family != "add" and f"{{{t.problem.answer}}}" not in t.turns[-1].text]
    assert len(wrong) > 100


def test_a_recording_has_the_ids_of_a_rollout() -> None:
    tokenizer, dialect, limits = ByteTokenizer(), make_dialect("retool", instructions=False), EpisodeLimits()
    problem = Problem(id="p", prompt="6*7?", answer="42")
    turns = (RecordedTurn(text="<code>print(42)</code>", outputs=("42",)), RecordedTurn(text=r"\boxed{42}"))
    episode = replay(Recording(problem=problem, turns=turns), dialect=dialect, tokenizer=tokenizer, limits=limits)
    assert episode.outcome is Outcome.ANSWERED
    expected = "6*7?\n<code>print(42)</code>\n<interpreter>\n42\n</interpreter>\n\\boxed{42}<eos>"
    assert tokenizer.decode(episode.token_ids) == expected


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([RecordedTurn(text="<code>print(1)</code>")], "turn 0: 1 calls but 0 recorded outputs"),
        ([RecordedTurn(text="no call", outputs=("1",))], "turn 0: 0 calls but 1 recorded outputs"),
        ([RecordedTurn(text=r"\boxed{1}"), RecordedTurn(text="more")], "turn 1: the episode already ended"),
        ([RecordedTurn(text="<code>print(1)</code>", outputs=("1",))], "ends with a tool result, not with an answer"),
    ],
)
def test_recordings_that_do_not_fit_are_named(turns: list[RecordedTurn], message: str) -> None:
    problem = Problem(id="p", prompt="?", answer="1")
    with pytest.raises(UsageError, match=message):
        replay(
            Recording(problem=problem, turns=tuple(turns)),
            dialect=make_dialect("retool"),
            tokenizer=ByteTokenizer(),
            limits=EpisodeLimits(),
        )
