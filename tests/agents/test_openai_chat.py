"""Models behind a chat endpoint: what is sent, how calls and stops come back, and what is tried again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from agents.base import Request
from agents.chat_messages import as_calls, chat_messages, with_calls, with_stop
from agents.openai_chat import OpenAIAgent
from agents.rollout import play
from agents.scripted import ScriptedAgent
from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.errors import EngineError, UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.problems import Message, Problem
from retool_env.sandbox import Cancel
from retool_env.sources import ListSource
from retool_env.tokenizer import ByteTokenizer
from retool_env.tools import ToolCall
from retool_env.trajectory import Trajectory
from tests.agents.chat_server import ChatServer, chat_server

TOKENIZER = ByteTokenizer()
PROBLEMS = tuple(
    Problem(id=f"{a}x{b}", prompt=f"What is {a} * {b}?", answer=str(a * b)) for a in (12, 17, 23) for b in (5, 41)
)
DIALECTS = ("retool", "markdown", "hermes")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


def connect(server: ChatServer, dialect: str = "retool", **settings) -> OpenAIAgent:
    return OpenAIAgent(server.url, "a-model", TOKENIZER, make_dialect(dialect), **settings)


def ask(text: str = "What is 3 + 4?", **settings) -> Request:
    ids = np.array(TOKENIZER.encode(text), dtype=np.int64)
    return Request(**{"token_ids": ids, "budget": 100, "messages": (Message(role="user", content=text),), **settings})


def environment(dialect: str, **settings) -> EnvConfig:
    return EnvConfig(dialect=dialect, **{"max_context_tokens": 4000, "max_turn_tokens": 500, **settings})


@pytest.mark.parametrize(("dialect", "structured"), [*((name, True) for name in DIALECTS), ("retool", False)])
def test_it_solves_problems_with_the_interpreter(server: ChatServer, dialect: str, structured: bool) -> None:
    """With structured calls in every dialect, and with calls as text in the one that this endpoint writes."""
    agent = connect(server, dialect, structured=structured)
    source = ListSource(name="x", problems=PROBLEMS)
    for trajectory in play(source, agent, env=environment(dialect), num_episodes=len(PROBLEMS), num_slots=4):
        transcript = trajectory.transcript
        assert np.isnan(transcript.logprobs).all() and (transcript.policy_version == -1).all()
        assert trajectory.record.correct and trajectory.record.outcome is Outcome.ANSWERED
        assert [call.status for call in trajectory.record.calls] == [ToolStatus.OK]


def test_the_second_request_shows_call_and_result_as_fields(server: ChatServer) -> None:
    agent = connect(server, "hermes")
    play(ListSource(name="x", problems=PROBLEMS[:1]), agent, env=environment("hermes"), num_episodes=1)
    first, second = server.bodies
    assert [message["role"] for message in first["messages"]] == ["user"]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["code_interpreter"]
    assistant, tool = second["messages"][1:]
    (call,) = assistant["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"code": "print(12 * 5)"}
    assert (tool["role"], tool["tool_call_id"], tool["content"].strip()) == ("tool", call["id"], "60")
    assert assistant["content"].strip() == "Let me see."


def test_the_endpoints_own_count_of_tokens_is_kept(server: ChatServer) -> None:
    source, env = ListSource(name="x", problems=PROBLEMS[:1]), environment("hermes")
    (without,) = play(source, connect(server, "hermes"), env=env, num_episodes=1)
    server.counts = True
    (counted,) = play(source, connect(server, "hermes"), env=env, num_episodes=1)
    assert without.num_counted == 0 and counted.num_counted > 0
    assert counted.num_counted < counted.record.num_action_tokens  # which are bytes here


def test_a_token_is_several_ids_where_bytes_are_counted(server: ChatServer) -> None:
    agent = connect(server, ids_per_token=4)
    for budget in (100, 3):
        agent.act(ask(budget=budget))
    assert [body["max_tokens"] for body in server.bodies] == [25, 1]


def test_settings_are_sent_and_extra_ones_replace_them(server: ChatServer) -> None:
    connect(server, extra={"seed": None, "max_tokens": 50, "reasoning_effort": "low"}).act(ask())
    changed = server.bodies[0]
    assert "seed" not in changed and (changed["max_tokens"], changed["reasoning_effort"]) == (50, "low")
    connect(server).act(ask(stop=("</code>",), seed=2**31 + 9))
    body = server.bodies[1]
    assert (body["model"], body["max_tokens"], body["seed"], body["stop"]) == ("a-model", 100, 9, ["</code>"])
    assert "top_k" not in body and "tools" not in body


@pytest.mark.parametrize("names_stop", [True, False])
def test_a_stop_string_that_the_endpoint_left_out_is_put_back(server: ChatServer, names_stop: bool) -> None:
    server.names_stop = names_stop
    got = connect(server, structured=False).act(ask(stop=("</code>",)))
    assert TOKENIZER.decode(got.token_ids).endswith("print(3 + 4)\n</code>")
    assert got.finish_reason == "stop"


@pytest.mark.parametrize(
    ("text", "matched", "whole"),
    [
        ("<code>print(1)", None, "<code>print(1)</code>"),
        ("<code>print(1)", "</code>", "<code>print(1)</code>"),
        ("It is \\boxed{1}", None, "It is \\boxed{1}"),
        ("I do not know", None, "I do not know"),
        ("I do not know", 151645, "I do not know"),
        ("<code>\nprint(1)\n", 151645, "<code>\nprint(1)\n"),
    ],
)
def test_when_a_stop_string_is_put_back(text: str, matched: str | int | None, whole: str) -> None:
    assert with_stop(text, matched, make_dialect("retool")) == whole


def test_a_turn_cut_by_length_does_not_end_itself(server: ChatServer) -> None:
    got = connect(server, structured=False).act(ask(budget=2))
    assert got.finish_reason == "length" and TOKENIZER.eos_id not in got.token_ids.tolist()


def test_more_text_than_the_budget_has_ids_is_cut(server: ChatServer) -> None:
    got = connect(server, structured=False).act(ask(budget=9))
    assert (len(got.token_ids), got.finish_reason) == (9, "length")


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_outages_are_tried_again(server: ChatServer, status: int) -> None:
    server.failures = [(status, {}), (status, {"retry-after": "1"})]
    before = time.monotonic()
    assert len(connect(server).act(ask()).token_ids)
    assert len(server.bodies) == 3 and time.monotonic() - before >= 1.0


@pytest.mark.parametrize(("status", "fix"), [(400, "agent.model"), (401, "set agent.api_key"), (404, "agent.url")])
def test_refusals_are_told_at_once(server: ChatServer, status: int, fix: str) -> None:
    server.failures = [(status, {})]
    with pytest.raises(UsageError, match=f"told to fail with {status}.*{fix}"):
        connect(server).act(ask())
    assert len(server.bodies) == 1


def test_an_endpoint_that_stays_down_is_an_engine_error(server: ChatServer) -> None:
    server.failures = [(503, {})] * 9
    with pytest.raises(EngineError, match="given up after 2 attempts"):
        connect(server, max_attempts=2).act(ask())
    with pytest.raises(EngineError, match="given up after 1 attempts"):
        OpenAIAgent("http://127.0.0.1:9/v1", "m", TOKENIZER, make_dialect("retool"), max_attempts=1).act(ask())


def test_a_request_without_messages_is_refused(server: ChatServer) -> None:
    with pytest.raises(UsageError, match="reads messages, and this request has none"):
        connect(server).act(ask(messages=()))


def test_cancelling_drops_the_request(server: ChatServer) -> None:
    server.seconds = 20.0
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(connect(server).act, ask(cancel=cancel))
        time.sleep(0.2)
        cancel()
        assert running.result(5).finish_reason == "abort"


def test_cancelling_ends_the_wait_between_two_attempts(server: ChatServer) -> None:
    server.failures = [(503, {"retry-after": "100"})]
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(connect(server).act, ask(cancel=cancel))
        time.sleep(0.3)
        cancel()
        assert running.result(5).finish_reason == "abort"


DEEP = '{"code": "1", "x": ' + "[" * 3000 + "]" * 3000 + "}"
MISTAKES = ("{not json", '{"code": NaN}', '{"code": "1", "x": -Infinity}', '{"code": "1", "x": 1e999}', DEEP)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("arguments", MISTAKES, ids=lambda arguments: arguments[:30])
def test_arguments_that_cannot_be_read_reach_the_model_as_a_mistake(
    server: ChatServer, dialect: str, arguments: str
) -> None:
    server.arguments = arguments
    env = environment(dialect, max_context_tokens=20_000, max_turn_tokens=8000)
    (trajectory,) = play(ListSource(name="x", problems=PROBLEMS[:1]), connect(server, dialect), env=env, num_episodes=1)
    assert trajectory.record.calls[0].status is ToolStatus.MALFORMED
    (turn,) = [m["content"] for m in server.bodies[1]["messages"] if m["role"] == "assistant"]
    assert arguments in turn or json.dumps(arguments) in turn
    assert trajectory.scored and Trajectory.from_json(trajectory.to_json()).record == trajectory.record


@pytest.mark.parametrize("dialect", DIALECTS)
def test_half_a_surrogate_pair_in_arguments_is_replaced(server: ChatServer, dialect: str) -> None:
    server.arguments = r'{"code": "print(ascii(\"\ud800\"))"}'
    env = environment(dialect)
    (trajectory,) = play(ListSource(name="x", problems=PROBLEMS[:1]), connect(server, dialect), env=env, num_episodes=1)
    (called,) = trajectory.record.calls
    assert (called.status, called.code, called.text.strip()) == (ToolStatus.OK, 'print(ascii("\ufffd"))', r"'\ufffd'")
    trajectory.to_json().encode()


@pytest.mark.parametrize("value", ["1e999", "NaN", "[" * 100 + "]" * 100])
def test_a_call_that_is_text_is_read_with_the_same_care(value: str) -> None:
    bad = f'<tool_call>\n{{"name": "code_interpreter", "arguments": {{"code": "1", "x": {value}}}}}\n</tool_call>'
    agent = ScriptedAgent(lambda _, turn: bad if turn == 0 else r"So \boxed{60}.", TOKENIZER)
    env = environment("hermes")
    (trajectory,) = play(ListSource(name="x", problems=PROBLEMS[:1]), agent, env=env, num_episodes=1)
    assert [call.status for call in trajectory.record.calls] == [ToolStatus.MALFORMED]
    assert trajectory.record.correct and Trajectory.from_json(trajectory.to_json()).record == trajectory.record


def test_calls_that_a_dialect_cannot_write_do_not_end_the_run() -> None:
    retool = make_dialect("retool")
    calls = as_calls([("search", '{"q": 1}'), ("code_interpreter", '{"code": "print(1)"}'), ("code_interpreter", "{}")])
    assert retool.parse(with_calls("So. ", calls, retool)).calls[0].code == "print(1)"
    assert with_calls("So. ", calls[:1], retool) == "So. "


def turn_of(dialect: str, arguments: str, text: str = "So. ") -> str:
    return with_calls(text, as_calls([("code_interpreter", arguments)]), make_dialect(dialect))


def test_arguments_that_are_json_in_the_dialect_become_a_string_and_the_model_reads_what_is_wrong() -> None:
    turn = turn_of("hermes", '{"code": "print(')
    assert turn.splitlines()[2] == r'{"name": "code_interpreter", "arguments": "{\"code\": \"print("}'
    (call,) = make_dialect("hermes").parse(turn).calls
    assert call.name == "code_interpreter" and "no valid JSON (Unterminated string" in call.problem
    two = as_calls([("code_interpreter", '{"code": "1"}'), ("code_interpreter", "[1]")])
    good, bad = make_dialect("hermes").parse(with_calls("", two, make_dialect("hermes"))).calls
    assert good.code == "1" and not good.problem and "must be an object, got list" in bad.problem


@pytest.mark.parametrize(
    "arguments",
    [
        '{"code": "print(',
        "print(1)",
        "[1]",
        '"print(1)"',
        '{"program": "print(1)"}',
        '{"code": ["print(1)"]}',
        "a < b",
    ],
)
@pytest.mark.parametrize("dialect", ["retool", "markdown"])
def test_what_is_no_program_stands_in_front_of_an_empty_one(dialect: str, arguments: str) -> None:
    turn = turn_of(dialect, arguments)
    assert turn.startswith(f"So. {arguments}\n")
    (call,) = make_dialect(dialect).parse(turn).calls
    assert "the program is empty" in call.problem and call.span[1] == len(turn)


@pytest.mark.parametrize(
    "arguments",
    ["<code>print(1)</code>", "```python\nprint(1)", "```python\n1\n```\n```output\n", '{"code": "1\n```\n'],
)
@pytest.mark.parametrize("dialect", ["retool", "markdown"])
def test_marks_in_what_is_no_program_make_no_other_call(dialect: str, arguments: str) -> None:
    turn = turn_of(dialect, arguments)
    (call,) = make_dialect(dialect).parse(turn).calls
    assert call.problem and call.span[1] == len(turn) and arguments.strip("`<>\n")[:4] in turn


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_call_without_arguments_says_nothing(dialect: str) -> None:
    assert turn_of(dialect, "") == turn_of(dialect, "{}") and "So. {}" not in turn_of(dialect, "")


def test_malformed_calls_stay_text_and_results_follow_in_order() -> None:
    hermes = make_dialect("hermes")
    two = hermes.write("", [ToolCall(name="a", arguments={"x": 1}), ToolCall(name="b", arguments={"y": 2})])
    bad = "<tool_call>\n{oops\n</tool_call>"
    talk = [("user", "go"), ("assistant", two), ("tool", "A"), ("tool", "B"), ("assistant", bad), ("tool", "Error")]
    rows = chat_messages([Message(role=role, content=text) for role, text in talk], hermes, structured=True)
    assert [row["role"] for row in rows] == ["user", "assistant", "tool", "tool", "assistant", "user"]  # type: ignore[index,call-overload]
    assert [call["id"] for call in rows[1]["tool_calls"]] == [rows[2]["tool_call_id"], rows[3]["tool_call_id"]]  # type: ignore[index,call-overload,union-attr]
    assert rows[4]["content"] == bad and rows[5]["content"] == "Output:\nError"  # type: ignore[index,call-overload]


def test_long_outputs_are_cut_as_for_the_token_view(server: ChatServer) -> None:
    problem = Problem(id="p", prompt="What is '7' * 3000?", answer="1")
    env = environment("hermes", max_tool_tokens=64)
    play(ListSource(name="x", problems=(problem,)), connect(server, "hermes"), env=env, num_episodes=1)
    shown = server.bodies[1]["messages"][-1]["content"]
    assert "tokens cut" in shown and len(shown) < 120
