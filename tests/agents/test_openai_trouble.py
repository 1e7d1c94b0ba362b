"""Endpoints that refuse, dribble, leave things out or ask for a key: what ends a turn, an episode or the run."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agents.openai_chat import OpenAIAgent
from agents.rollout import play
from retool_env.dialects import make_dialect
from retool_env.errors import EngineError, UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.sandbox.fusion.courier import Courier
from retool_env.sources import ListSource
from tests.agents.chat_server import ChatServer, chat_server
from tests.agents.test_openai_chat import PROBLEMS, TOKENIZER, ask, connect, environment

FULL = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
    "context_length_exceeded",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
    "the request exceeds the available context size",
)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as started:
        yield started


def play_one(server: ChatServer, dialect: str = "hermes", *, count: int = 1) -> Any:
    source = ListSource(name="x", problems=PROBLEMS[:count])
    return play(source, connect(server, dialect), env=environment(dialect), num_episodes=count, num_slots=1)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_once_it_has_answered_is_a_failure_of_one_episode(server: ChatServer, status: int) -> None:
    server.failures = [(200, {}), (200, {}), (status, {})]
    first, second, third = play_one(server, count=3)
    assert first.record.correct and third.record.correct
    assert second.record.outcome is Outcome.ENGINE_OUTAGE and f"refused with status {status}" in second.failure


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_mistake_of_the_user_stops_the_run_at_any_time(server: ChatServer, status: int) -> None:
    server.failures = [(200, {}), (200, {}), (status, {})]
    with pytest.raises(UsageError, match=f"refused with status {status}"):
        play_one(server, count=3)


@pytest.mark.parametrize("said", FULL)
def test_an_episode_that_has_outgrown_the_context_ends_as_one_that_was_cut(server: ChatServer, said: str) -> None:
    server.failures, server.refusal = [(200, {}), (400, {})], said
    (trajectory,) = play_one(server)
    assert trajectory.record.outcome is Outcome.TURN_TOO_LONG
    assert trajectory.scored and not trajectory.record.correct


def test_a_prompt_that_does_not_fit_is_never_scored_as_wrong(server: ChatServer) -> None:
    server.failures, server.refusal = [(400, {})], FULL[0]
    first, second = play_one(server, count=2)
    assert first.record.outcome is Outcome.ENGINE_OUTAGE and "lower env.max_turn_tokens" in first.failure
    assert second.record.correct


@contextlib.contextmanager
def dribbling(head: bytes) -> Iterator[str]:
    """A server that answers with ``head`` and then with a space every 50 ms, for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(head)
                    while True:
                        time.sleep(0.05)
                        connection.sendall(b" ")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.close()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nx-slow:", b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n"])
def test_the_time_of_a_turn_is_the_time_of_all_of_it(head: bytes) -> None:
    with dribbling(head) as url:
        agent = OpenAIAgent(url, "m", TOKENIZER, make_dialect("retool"), seconds=1.0)
        before = time.monotonic()
        with pytest.raises(EngineError, match="no answer in time"):
            agent.act(ask())
        assert time.monotonic() - before < 3.0


def test_a_kept_connection_has_the_time_of_its_own_request(server: ChatServer) -> None:
    """And not that of the one before."""
    courier = Courier(server.url, headers={}, max_connections=1, connect_seconds=5.0)
    assert courier.send("GET", "/models", seconds=0.4).status_code == 200
    server.seconds = 0.6
    body = json.dumps({"messages": [{"role": "user", "content": "?"}], "max_tokens": 9}).encode()
    assert courier.send("POST", "/chat/completions", body, seconds=10.0).status_code == 200
    with pytest.raises(TimeoutError):
        courier.send("POST", "/chat/completions", body, seconds=0.2)
    courier.close()


def test_a_fraction_of_a_second_to_wait(server: ChatServer) -> None:
    server.failures = [(429, {"retry-after": "1.5"})]
    before = time.monotonic()
    connect(server).act(ask())
    assert 1.5 <= time.monotonic() - before < 5.0
    server.failures = [(429, {"retry-after": value}) for value in ("nan", "-3", "soon")]
    connect(server).act(ask())


@pytest.mark.parametrize("url", ["http://localhost:80a0/v1", "localhost:8000/v1", "http:///v1", "https://"])
def test_an_address_that_is_none_is_told_in_one_line(url: str) -> None:
    with pytest.raises(UsageError, match="must look like https://host/v1") as caught:
        OpenAIAgent(url, "m", TOKENIZER, make_dialect("retool"))
    assert repr(url) in str(caught.value) and "\n" not in str(caught.value)


def test_without_the_right_key_the_key_is_what_is_missing(server: ChatServer) -> None:
    server.key = "right"
    wrong = OpenAIAgent(server.url, None, TOKENIZER, make_dialect("retool"), api_key="wrong")
    with pytest.raises(UsageError, match=r"refused with status 401: .*not the key.*set agent\.api_key"):
        wrong.connect()
    right = OpenAIAgent(server.url, None, TOKENIZER, make_dialect("retool"), api_key="right")
    right.connect()
    assert right.model_name == "tiny"


def test_a_proxy_is_not_used_and_said_to_be_not(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = OpenAIAgent("http://127.0.0.1:9/v1", "m", TOKENIZER, make_dialect("retool"), max_attempts=1)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    for refused in (agent.connect, lambda: agent.act(ask())):
        with pytest.raises((UsageError, EngineError), match="HTTPS_PROXY is not used"):
            refused()


@pytest.mark.parametrize("dialect", ["retool", "hermes"])
def test_arguments_may_be_an_object(server: ChatServer, dialect: str) -> None:
    server.arguments = {"code": "print(60)"}
    (trajectory,) = play_one(server, dialect)
    assert trajectory.record.correct and [call.status for call in trajectory.record.calls] == [ToolStatus.OK]


def test_arguments_that_are_null_are_none(server: ChatServer) -> None:
    server.arguments = None
    (trajectory,) = play_one(server)
    assert trajectory.scored and trajectory.record.calls[0].status is ToolStatus.BAD_ARGUMENTS


def test_what_is_null_is_not_known_and_half_a_pair_is_replaced(server: ChatServer) -> None:
    server.raw = (
        rb'{"choices": [{"message": {"content": "\ud83d\ude00 \ud800 \\ud800"}}], "usage": {"completion_tokens": null}}'
    )
    got = connect(server).act(ask())
    assert TOKENIZER.decode(got.token_ids[:-1]) == "\U0001f600 � \\ud800" and got.num_counted == 0


@pytest.mark.parametrize("word", ["matched_stop", "stop_reason"])
def test_a_program_that_the_model_left_open_is_not_closed_for_it(server: ChatServer, word: str) -> None:
    """A number is the end token: as ids the same turn would be a void one, and nothing of it would be run."""
    message = {"role": "assistant", "content": "<code>\nprint(1)\n"}
    server.raw = json.dumps({"choices": [{"message": message, "finish_reason": "stop", word: 151645}]}).encode()
    got = connect(server).act(ask(stop=("</code>",)))
    assert TOKENIZER.decode(got.token_ids[:-1]) == "<code>\nprint(1)\n" and got.token_ids[-1] == TOKENIZER.eos_id
    (trajectory,) = play_one(server, "retool")
    assert trajectory.record.outcome is Outcome.NO_ANSWER and not trajectory.record.calls


def answering(finish_reason: str | None, *calls: Any, content: Any = "So I") -> bytes:
    written = [
        {"id": "x", "type": "function", "function": {"name": "code_interpreter", "arguments": call}} for call in calls
    ]
    message = {"role": "assistant", "content": content, "tool_calls": written or None}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}).encode()


@pytest.mark.parametrize(
    ("reason", "content"), [("abort", "So I"), ("error", "So I"), ("abort", ""), (None, None), (None, "")]
)
def test_a_generation_that_the_server_gave_up_is_tried_again(
    server: ChatServer, reason: str | None, content: str | None
) -> None:
    server.raw = answering(reason, content=content)
    with pytest.raises(EngineError, match=rf"finish_reason {reason!r}.*given up after 2 attempts"):
        connect(server, max_attempts=2).act(ask())
    assert len(server.bodies) == 2
    source, agent = ListSource(name="x", problems=PROBLEMS[:1]), connect(server, max_attempts=1)
    (trajectory,) = play(source, agent, env=environment("retool"), num_episodes=1)
    assert trajectory.record.outcome is Outcome.ENGINE_OUTAGE and not trajectory.scored


def test_what_comes_after_a_generation_that_was_given_up_is_the_turn(server: ChatServer) -> None:
    server.reasons = ["abort", "error"]
    got = connect(server, structured=False).act(ask(stop=("</code>",)))
    assert TOKENIZER.decode(got.token_ids).endswith("print(3 + 4)\n</code>") and len(server.bodies) == 3


def test_a_turn_that_a_filter_took_away_fails_its_episode_at_once(server: ChatServer) -> None:
    server.raw = answering("content_filter")
    with pytest.raises(EngineError, match="content_filter") as caught:
        connect(server).act(ask())
    assert server.url in str(caught.value) and len(server.bodies) == 1
    (trajectory,) = play_one(server)
    assert trajectory.record.outcome is Outcome.ENGINE_OUTAGE and "content_filter" in trajectory.failure


CUT = (
    '{"code": "print(',
    '{"code": "print(1)"}',
    '{"code": "print(\'</code>\')", "x',
    "```python\n1\n```\n```output\n",
)


@pytest.mark.parametrize("dialect", ["retool", "markdown", "hermes"])
@pytest.mark.parametrize("arguments", CUT)
def test_a_call_that_was_cut_by_length_is_never_run(server: ChatServer, dialect: str, arguments: str) -> None:
    server.raw = answering("length", arguments)
    parts = make_dialect(dialect)
    got = connect(server, dialect).act(ask(stop=parts.stop, budget=300))
    text = TOKENIZER.decode(got.token_ids)
    assert got.finish_reason == "length" and text.startswith("So I\n" + arguments[:10])
    assert not parts.parse(text).stopped and TOKENIZER.eos_id not in got.token_ids.tolist()
    (trajectory,) = play_one(server, dialect)
    assert trajectory.record.outcome is Outcome.TURN_TOO_LONG and not trajectory.record.calls


@pytest.mark.parametrize("content", [None, ""])
def test_a_turn_that_was_cut_before_a_word_does_not_end_itself(server: ChatServer, content: str | None) -> None:
    """As of a model whose budget went into reasoning that is not shown."""
    server.raw = answering("length", content=content)
    (trajectory,) = play_one(server)
    assert trajectory.record.outcome is Outcome.TURN_TOO_LONG


def test_content_may_be_a_list_of_parts(server: ChatServer) -> None:
    parts = [{"type": "text", "text": "So it "}, {"type": "refusal", "refusal": "no"}, {"type": "text", "text": "is."}]
    server.raw = answering("stop", content=parts)
    assert TOKENIZER.decode(connect(server).act(ask()).token_ids[:-1]) == "So it is."
