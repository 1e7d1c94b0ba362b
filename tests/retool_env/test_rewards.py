"""Reward parts by hand, the guides' two signatures, and user functions with every mistake they can make."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retool_env.config import EnvConfig, check_config
from retool_env.envs.math_tool import MathToolEnv
from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Problem
from retool_env.record import CallRecord, EpisodeRecord
from retool_env.rewards import (
    REWARDS,
    compute_reward,
    describe,
    load_reward_function,
    make_reward,
    reward_func,
)
from retool_env.tools import function_tool
from retool_env.verifier import Verdict

PROBLEM = Problem(id="p", prompt="What is 15 + 27?", answer="42", metadata={"tool": "add"})
RIGHT, WRONG = Verdict(correct=True, answered=True), Verdict(correct=False, answered=True)
NOTHING = Verdict(correct=False, answered=False)


def call(turn: int = 0, text: str = "42", name: str = "add", status: ToolStatus = ToolStatus.OK) -> CallRecord:
    return CallRecord(turn=turn, name=name, code="", status=status, text=text)


def episode(verdict: Verdict | None, *calls: CallRecord, **facts: Any) -> EpisodeRecord:
    outcome = Outcome.SANDBOX_OUTAGE if verdict is None else Outcome.ANSWERED if verdict.answered else Outcome.NO_ANSWER
    values: dict[str, Any] = {"outcome": outcome, "turns": ("x",), "num_action_tokens": 10, "problem": PROBLEM, **facts}
    return EpisodeRecord(verdict=verdict, calls=calls, **values)


def rounds(count: int) -> list[CallRecord]:
    return [call(turn) for turn in range(count)]


BAD = call(status=ToolStatus.MALFORMED)
BY_HAND = [
    ("accuracy", episode(RIGHT), 1.0),
    ("accuracy", episode(WRONG), 0.0),
    ("pm1", episode(RIGHT, *rounds(3)), 1.0),
    ("pm1", episode(NOTHING), -1.0),
    ("pm1_noanswer", episode(RIGHT), 1.0),
    ("pm1_noanswer", episode(WRONG), -1.0),
    ("pm1_noanswer", episode(NOTHING), -0.5),
    ({"pm1_noanswer": {"no_answer": -0.9}}, episode(NOTHING), -0.9),
    ("strategic", episode(RIGHT), 1.0),
    ("strategic", episode(RIGHT, *rounds(1)), 0.5),
    ("strategic", episode(RIGHT, *rounds(3)), 0.0),
    ("strategic", episode(WRONG, *rounds(3)), 0.0),
    ({"strategic": {"cost": 0.1}}, episode(RIGHT, *rounds(2)), 0.8),
    ("retool_shaped", episode(RIGHT, *rounds(5)), 1.0),
    ("retool_shaped", episode(WRONG), -1.0),
    ("retool_shaped", episode(WRONG, *rounds(1)), -0.9),
    ("retool_shaped", episode(WRONG, *rounds(4)), -0.6),
    ("retool_shaped", episode(WRONG, *rounds(8)), -0.6),
    ("retool_shaped", episode(WRONG, call(0), call(0)), -0.9),  # two calls of one turn are one round
    ("retool_shaped", episode(WRONG, BAD), -1.0),
    ({"retool_shaped": {"decay_episodes": 100}}, episode(WRONG, *rounds(2), ticket=0), -0.8),
    ({"retool_shaped": {"decay_episodes": 100}}, episode(WRONG, *rounds(2), ticket=50), -0.9),
    ({"retool_shaped": {"decay_episodes": 100}}, episode(WRONG, *rounds(2), ticket=250), -1.0),
    ("format", episode(WRONG), 1.0),
    ("format", episode(NOTHING), 0.0),
    ("format", episode(RIGHT, BAD), 0.0),
    ({"overlong": {"max_tokens": 100, "buffer": 20}}, episode(RIGHT, num_action_tokens=80), 0.0),
    ({"overlong": {"max_tokens": 100, "buffer": 20}}, episode(RIGHT, num_action_tokens=95), -0.75),
    ({"overlong": {"max_tokens": 100, "buffer": 20}}, episode(RIGHT, num_action_tokens=101), -1.0),
    ("overlong", episode(NOTHING, outcome=Outcome.CONTEXT_FULL), -1.0),
    ("void_turn", episode(RIGHT), 0.0),
    ("void_turn", episode(NOTHING), -1.0),
    ("void_turn", episode(NOTHING, outcome=Outcome.MAX_TURNS), 0.0),
    ({"void_turn": {"drop": 1}}, episode(NOTHING), None),
    ({"void_turn": {"drop": 1}}, episode(WRONG), 0.0),
    ("tool_partial", episode(WRONG, call(text=" 42\n")), 1.0),
    ("tool_partial", episode(RIGHT, call(text="42"), call(1, text="41")), 0.1),
    ("tool_partial", episode(RIGHT), 0.0),
    ("tool_selection", episode(WRONG, call(text="42")), 1.0),
    ("tool_selection", episode(WRONG, call(text="41")), 0.5),
    ("tool_selection", episode(WRONG, call(text="42", name="multiply")), 0.0),
    ("tool_selection", episode(RIGHT), 0.0),
    ({"pm1": 0.5, "format": 0.1}, episode(WRONG), -0.4),
    ({"pm1": 1.0, "void_turn": {"weight": 0.5}}, episode(NOTHING), -1.5),
]  # fmt: skip


@pytest.mark.parametrize(("reward", "record", "value"), BY_HAND)
def test_parts_by_hand(reward: Any, record: EpisodeRecord, value: float | None) -> None:
    scored = make_reward(reward).score(record)
    assert scored.reward == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("name", REWARDS)
def test_an_episode_that_infrastructure_ended_is_unscored(name: str) -> None:
    scored = make_reward({name: 1.0, "pm1": 1.0}).score(episode(None))
    assert [part.raw for part in scored.reward_parts] == [None] * len(scored.reward_parts)
    assert scored.reward is None


def test_raw_and_weighted_are_both_kept() -> None:
    (part,) = make_reward({"format": 0.1}).score(episode(WRONG)).reward_parts
    assert (part.name, part.raw, part.weight, part.weighted) == ("format", 1.0, 0.1, pytest.approx(0.1))


def test_only_parts_that_read_tool_results_say_so() -> None:
    reading = {name for name in REWARDS if make_reward(name).parts[0].reads_tool_results}
    assert reading == {"tool_partial", "tool_selection"}
    assert not any(part.reads_tool_results for part in make_reward().parts)
    assert make_reward("tool_partial").score(episode(WRONG)).reward_parts[0].reads_tool_results


@given(st.text(max_size=20), st.booleans())
def test_parts_that_do_not_read_tool_results_are_blind_to_them(text: str, right: bool) -> None:
    """Invariant: what a tool wrote changes nothing but the parts that declare it."""
    blind = {name: 1.0 for name in REWARDS if not make_reward(name).parts[0].reads_tool_results}
    verdict = RIGHT if right else WRONG
    one = make_reward(blind).score(episode(verdict, call(text="42"))).reward_parts
    assert make_reward(blind).score(episode(verdict, call(text=text))).reward_parts == one


MISTAKES = [
    ({}, "give at least one part"),
    ("pm2", "no reward part 'pm2'; did you mean 'pm1'?"),
    ({"pm1": {"cost": 1.0}}, "reward part 'pm1' has no option 'cost'"),
    ({"strategic": {"cots": 1.0}}, "no option 'cots'; did you mean 'cost'?"),
    ({"pm1": float("nan")}, "weight=nan is not a finite number"),
    ({"pm1": True}, "weight=True is not a finite number"),
    ({"overlong": {"buffer": 0}}, "buffer=0 must be above 0"),
    ("nowhere/mine.py", "reward='nowhere/mine.py': no such file"),
    ("no_such.module", "reward='no_such.module': no module 'no_such'"),
]


@pytest.mark.parametrize(("reward", "message"), MISTAKES)
def test_mistakes_are_named(reward: Any, message: str) -> None:
    with pytest.raises(UsageError) as error:
        make_reward(reward)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tool_selection_needs_its_column() -> None:
    with pytest.raises(UsageError, match="needs a column 'tool'"):
        make_reward("tool_selection").score(episode(RIGHT, problem=Problem(id="q", prompt="?", answer="1")))


def test_config_accepts_weights_options_and_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def reward_func(completions, answer, **kwargs): return [0.5] * len(answer)")
    for reward in ("pm1", {"pm1": 1.0}, {"overlong": {"weight": 1.0, "buffer": 2048.0}}, str(path), {str(path): 2.0}):
        assert check_config(EnvConfig, {"reward": reward}).reward == reward


# --- The guides' signatures


@pytest.mark.parametrize(
    ("text", "gold", "reward"),
    [
        (r"The answer is \boxed{42}", "42", 1.0),
        (r"The answer is \boxed{41}", "42", -1.0),
        ("The answer is 42", "42", -0.5),
        (r"\boxed{\frac{1}{2}}", "0.5", 1.0),
    ],
)
def test_compute_reward_as_in_the_guide(text: str, gold: str, reward: float) -> None:
    value, details = compute_reward(text, gold)
    assert value == reward
    assert (details["correct"], details["answered"]) == (reward > 0, reward != -0.5)
    assert details["ground_truth"] == gold
    other, _ = compute_reward(text, gold, reward_correct=2.0, reward_wrong=0.0, reward_no_answer=0.25)
    assert other == {1.0: 2.0, -1.0: 0.0, -0.5: 0.25}[reward]


CONVERSATIONS = [
    [{"role": "assistant", "content": "Let me add."}, {"role": "tool", "content": "Sum: 42"}],
    [{"role": "assistant", "content": "Let me add."}, {"role": "tool", "content": "Sum: 41"}],
    [{"role": "assistant", "content": r"It is \boxed{42}"}],
]


def test_reward_func_scores_the_final_answer() -> None:
    assert reward_func(CONVERSATIONS, ["42", "42", "42"]) == [0.0, 0.0, 1.0]
    assert reward_func([r"\boxed{1}", "2"], ["1", "2"], prompt=["a", "b"]) == [1.0, 0.0]


@pytest.mark.parametrize("gold", [42, 42.0, np.int64(42), np.float32(42), "42"])
def test_golds_may_be_numbers(gold: Any) -> None:
    assert reward_func([r"\boxed{42}", r"\boxed{41}"], answer=[gold, gold]) == [1.0, 0.0]
    assert compute_reward(r"\boxed{42}", gold)[0] == 1.0


@pytest.mark.parametrize("gold", [None, ["42"], {"a": 1}])
def test_golds_that_are_neither_text_nor_number_are_named(gold: Any) -> None:
    with pytest.raises(UsageError, match=f"answer 1 is a {type(gold).__name__}, .*; give text or a number"):
        reward_func(["a", "b"], answer=["42", gold])


def test_the_guides_accuracy_example_is_tool_partial() -> None:
    assert load_reward_function("tool_partial")(CONVERSATIONS, ["Sum: 42"] * 3) == [1.0, 0.1, 0.0]


def test_tool_selection_reads_the_column_and_the_tools_name() -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}
    named = [{"role": "assistant", "content": ""}, {"role": "tool", "name": "multiply", "content": "42"}]
    completions = [[asked, {"role": "tool", "content": "41"}], named]
    assert load_reward_function("tool_selection")(completions, ["42", "42"], tool=["add", "add"]) == [0.5, 0.0]


def test_lengths_must_agree() -> None:
    with pytest.raises(UsageError, match="2 completions but 1 answers"):
        reward_func(["a", "b"], ["1"])
    with pytest.raises(UsageError, match="column 'level' has 3 entries for 2 completions"):
        reward_func(["a", "b"], ["1", "2"], level=["1", "2", "3"])


def test_a_part_that_counts_tokens_needs_an_environment() -> None:
    with pytest.raises(UsageError, match="'overlong' counts sampled tokens"):
        load_reward_function("overlong")


def test_mean_and_standard_deviation_of_a_batch_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="retool_env.rewards"):
        reward_func([r"\boxed{1}", r"\boxed{2}"], ["1", "1"])
    assert "accuracy: n=2 mean=0.5000 std=0.5000" in caplog.text


# The guide's own example, word for word but for the layout.
GUIDE = """
def math_reward(completions, answer, **kwargs):
    rewards = []
    for completion, expected in zip(completions, answer):
        tool_response = None
        for msg in completion:
            if msg.get("role") == "tool":
                tool_response = msg.get("content")

        if tool_response == expected:
            rewards.append(1.0)
        elif tool_response is not None:
            rewards.append(0.3)  # Partial credit for trying
        else:
            rewards.append(0.0)

    return rewards

reward_func = math_reward
"""


def write(folder: Path, body: str, name: str = "my_reward.py") -> str:
    path = folder / name
    path.write_text(body)
    return str(path)


def test_the_guides_file_works_as_it_is(tmp_path: Path) -> None:
    where = write(tmp_path, GUIDE)
    loaded = load_reward_function(where)
    assert loaded(CONVERSATIONS, ["Sum: 42"] * 3) == [1.0, 0.3, 0.0]
    assert loaded.reads_tool_results, "it is given tool messages, so it is labelled unless it says otherwise"
    record = episode(WRONG, call(text="42"))
    assert make_reward({where: 2.0}).score(record).reward == 2.0
    assert make_reward(where).score(episode(None)).reward is None


def test_columns_of_the_data_set_arrive_as_keyword_arguments(tmp_path: Path) -> None:
    body = "def reward_func(completions, answer, tool, prompt, **rest): return [float(tool == ['add'] and len(prompt))]"
    assert make_reward(write(tmp_path, body)).score(episode(RIGHT)).reward == 1.0


def test_another_function_and_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "def half(completions, answer, **kwargs): return [0.5 for _ in answer]\nhalf.reads_tool_results = False"
    where = write(tmp_path, body, "pieces.py")
    assert load_reward_function(f"{where}:half")(["a"], ["1"]) == [0.5]
    (tmp_path / "package_of_rewards").mkdir()
    write(tmp_path / "package_of_rewards", body, "pieces.py")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_reward_function("package_of_rewards.pieces:half")
    assert (loaded(["a"], ["1"]), loaded.reads_tool_results) == ([0.5], False)
    sys.modules.pop("package_of_rewards.pieces")


def test_none_is_unscored(tmp_path: Path) -> None:
    where = write(tmp_path, "def reward_func(completions, answer, **kwargs): return [None for _ in answer]")
    assert load_reward_function(where)(["a", "b"], ["1", "2"]) == [None, None]
    assert make_reward({where: 1.0, "pm1": 1.0}).score(episode(RIGHT)).reward is None


BROKEN = [
    ("x = 1", "reward_func must be callable, but it is missing"),
    ("reward_func = 3", "reward_func must be callable, but it is a int"),
    ("import no_such_module_at_all", "no module 'no_such_module_at_all'"),
    ("def reward_func(:", "cannot be loaded (SyntaxError"),
]
FAILING = [
    ("return [1.0]", "returned 1 rewards for 2 completions"),
    ("return 1.0", "returned a float; expected a list of 2 rewards"),
    ("return [1.0, float('nan')]", "returned nan for completion 1"),
    ("return [float('inf'), 0]", "returned inf for completion 0"),
    ("return ['high', 0]", "returned 'high' for completion 0"),
    ("raise KeyError('level')", "raised KeyError: 'level'"),
]


@pytest.mark.parametrize(("body", "message"), BROKEN)
def test_a_file_that_cannot_be_used_is_named(body: str, message: str, tmp_path: Path) -> None:
    where = write(tmp_path, body)
    with pytest.raises(UsageError) as error:
        make_reward(where)
    assert message in str(error.value)
    assert where in str(error.value)


@pytest.mark.parametrize(("body", "message"), FAILING)
def test_a_function_that_misbehaves_is_named(body: str, message: str, tmp_path: Path) -> None:
    where = write(tmp_path, f"def reward_func(completions, answer, **kwargs):\n    {body}")
    with pytest.raises(UsageError) as error:
        load_reward_function(where)(["a", "b"], ["1", "2"])
    assert str(error.value).startswith(where)
    assert message in str(error.value)


def test_an_environment_with_a_users_reward_can_be_pickled(tmp_path: Path) -> None:
    where = write(tmp_path, "def reward_func(completions, answer, **kwargs): return [0.25]")
    for reward in (where, "strategic", {"overlong": {"buffer": 10.0}}):
        env = pickle.loads(pickle.dumps(MathToolEnv(reward=reward, tokenizer="bytes")))
        assert env.config.reward == reward


def test_the_start_of_a_log_names_tools_and_rewards(tmp_path: Path) -> None:
    def add(a: float, b: float) -> str:
        """Add two numbers."""
        return f"Sum: {a + b}"

    where = write(tmp_path, GUIDE)
    tools = [function_tool(add).spec]
    lines = describe(make_reward({"strategic": 1.0, "tool_partial": 0.5, where: 1.0}), tools)
    assert lines[0] == "tool add(a: number, b: number): Add two numbers."
    assert lines[1].startswith("reward strategic (weight=1, cost=0.5): A right answer")
    assert lines[2].startswith("reward tool_partial (weight=0.5) (reads tool results): 1 when")
    assert lines[3] == f"reward {where} (weight=1) (reads tool results): user function"
