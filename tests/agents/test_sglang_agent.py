"""The SGLang client among servers that fail, pause, restart and change their weights; what a turn is made of."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from agents.base import Request, Sampling
from agents.sglang import SGLangAgent, SGLangServer, aborting
from agents.sglang.server import OutageError
from agents.sglang.turn import Turn
from agents.sglang.wire import GenerateReply, GenerateRequest, PauseMode, error_message, parse_replies
from retool_env.errors import EngineError, UsageError
from retool_env.sandbox import Cancel
from retool_env.tokenizer import ByteTokenizer
from tests.agents.fake_server import FakeServer, fake_sglang
from tests.agents.fake_sglang.scheduler import digest

TOKENIZER = ByteTokenizer()
SLOW = ("--random", "--step-seconds", 0.005, "--boost", "256=-50")  # no turn ends by chance


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(fake_sglang(*SLOW)) for _ in range(2)]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_sglang(*SLOW) as started:
        yield started


def connect(servers: Sequence[FakeServer], **settings) -> SGLangAgent:
    return SGLangAgent([server.url for server in servers], TOKENIZER, **{"patience": 30.0, **settings})


def ask(**settings) -> Request:
    ids = settings.pop("ids", [1, 2, 3])
    return Request(**{"token_ids": np.array(ids, dtype=np.int64), "budget": 8, **settings})


def long_turn(**settings) -> Request:
    return ask(**{"budget": 120, **settings})


def contexts_of(server: FakeServer) -> set[int]:
    return {context for context, _ in server.get("/fake/digests").json()}


def test_a_session_stays_where_its_cache_is_and_new_ones_spread(servers: list[FakeServer]) -> None:
    agent = connect(servers)

    def episode(session: int) -> list[int]:
        ids, seen = [session, session], []
        for turn in range(4):
            seen.append(digest(ids))
            got = agent.act(ask(ids=ids, session=session, turn=turn))
            ids = [*ids, *got.token_ids.tolist(), 65]
        return seen

    with ThreadPoolExecutor(12) as pool:
        episodes = list(pool.map(episode, range(12)))
    found = [contexts_of(server) for server in servers]
    homes = [[index for index, at in enumerate(found) if at >= set(episode)] for episode in episodes]
    assert all(len(home) == 1 for home in homes)
    assert {home[0] for home in homes} == {0, 1}
    agent.close()


def test_a_new_session_goes_to_the_server_with_the_least_in_flight(servers: list[FakeServer]) -> None:
    agent = connect(servers)
    cancel = Cancel()
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(agent.act, long_turn(session=k, budget=4000, cancel=cancel)) for k in range(8)]
        loads: list[int] = []
        deadline = time.monotonic() + 20
        while loads != [4, 4] and time.monotonic() < deadline:
            loads = [server.loads()[0].num_running_reqs for server in agent.servers]
        cancel()
        assert {future.result(30).finish_reason for future in running} == {"abort"}
    assert loads == [4, 4]
    agent.close()


def test_when_a_server_dies_its_requests_move(servers: list[FakeServer]) -> None:
    agent = connect(servers)
    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(agent.act, long_turn(session=k)) for k in range(16)]
        time.sleep(0.3)
        servers[0].kill()
        generations = [future.result(60) for future in running]
    assert [len(got.token_ids) for got in generations] == [120] * len(generations)
    assert [server.url for server in agent.servers_in_use] == [servers[1].url]
    assert agent.act(ask(session=0)).finish_reason == "length"
    agent.close()


def test_without_any_server_a_turn_fails_after_its_patience(server: FakeServer) -> None:
    agent = connect([server], patience=1.0, max_attempts=3)
    server.kill()
    with pytest.raises(EngineError, match=rf"no server answers: {server.url} is not ready"):
        agent.act(ask())
    agent.close()


def test_a_server_that_comes_back_is_used_again(server: FakeServer) -> None:
    agent = connect([server], max_attempts=100)
    agent.act(ask())
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(agent.act, ask())
        time.sleep(0.5)
        assert not waiting.done()
        with fake_sglang("--random", "--port", server.port):
            assert len(waiting.result(60).token_ids)
    agent.close()


def test_a_server_with_old_weights_waits_for_new_ones(servers: list[FakeServer]) -> None:
    agent = connect(servers)
    agent.set_version(4)
    servers[0].kill()
    with fake_sglang("--random", "--port", servers[0].port) as again:
        for session in range(20):
            assert set(agent.act(ask(session=session)).policy_version.tolist()) == {4}
        assert len(contexts_of(again)) <= 1  # its reply gave it away
        assert [server.url for server in agent.servers_in_use] == [servers[1].url]
        agent.restore = lambda server: server.set_weight_version(str(agent.policy_version))
        deadline = time.monotonic() + 60
        while len(agent.servers_in_use) < 2 and time.monotonic() < deadline:
            agent.act(ask())
            time.sleep(0.1)
        assert len(agent.servers_in_use) == 2
        versions = {v for session in range(50, 70) for v in agent.act(ask(session=session)).policy_version.tolist()}
        assert versions == {4} and contexts_of(again)
    agent.close()


def test_weights_that_are_too_old_are_noticed_in_the_reply(server: FakeServer) -> None:
    """The server was restarted between two requests, so nothing ever failed."""
    agent = connect([server], patience=3.0)
    agent.set_version(4)
    SGLangServer(server.url).set_weight_version("default")
    with pytest.raises(EngineError, match="came back with weights 'default' instead of '4'"):
        agent.act(ask())
    agent.close()


def test_an_outage_is_tried_again_and_only_so_often(server: FakeServer) -> None:
    agent = connect([server], max_attempts=4)
    server.post("/fake/break", {"times": 3})
    assert len(agent.act(ask()).token_ids)
    server.post("/fake/break", {"times": 100})
    with pytest.raises(EngineError, match=r"queue is full.*given up after 4 attempts"):
        agent.act(ask())
    agent.close()


def test_a_refusal_is_told_and_not_repeated(server: FakeServer) -> None:
    agent = connect([server], context_length=10**6)
    with pytest.raises(UsageError, match=r"cannot serve this request: .*maximum context length"):
        agent.act(ask(budget=10**5))
    assert not contexts_of(server)
    assert len(agent.act(ask()).token_ids)
    agent.close()


def test_a_request_beyond_the_context_names_the_fix(server: FakeServer) -> None:
    agent = connect([server])
    with pytest.raises(
        UsageError, match=r"8190 fit into the server's context; set env.max_context_tokens=8190 or less, or start"
    ):
        agent.act(ask(budget=8190))
    agent.close()


def test_the_key_is_sent() -> None:
    with fake_sglang("--random", "--api-key", "secret") as server:
        good, bad = connect([server], api_key="secret"), connect([server], api_key="guess")
        assert len(good.act(ask()).token_ids)
        with pytest.raises(UsageError, match=r"set agent.api_key"):
            bad.act(ask())
        good.close()
        bad.close()


@pytest.mark.parametrize("mode", ["retract", "abort", "in_place"])
def test_every_way_of_pausing_lets_turns_go_on(servers: list[FakeServer], mode: PauseMode) -> None:
    agent = connect(servers, pause_mode=mode)
    agent.set_version(1)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(agent.act, long_turn(session=k)) for k in range(8)]
        time.sleep(0.3)
        with agent.paused():
            for server in agent.servers:
                server.set_weight_version("2")
            agent.adopt(2)
            frozen = [future.done() for future in running]
            time.sleep(0.3)
            assert [future.done() for future in running] == frozen
        generations = [future.result(60) for future in running]
    assert [len(got.token_ids) for got in generations] == [120] * len(generations)
    assert any(set(got.policy_version.tolist()) == {1, 2} for got in generations)
    assert all((np.diff(got.policy_version) >= 0).all() for got in generations)
    agent.close()


def test_the_servers_go_on_when_the_block_fails(servers: list[FakeServer]) -> None:
    agent = connect(servers)
    with pytest.raises(ZeroDivisionError), agent.paused():
        raise ZeroDivisionError
    assert all(len(agent.act(ask(session=k)).token_ids) for k in range(4))
    agent.close()


def test_a_server_that_could_not_be_told_to_go_on_is_told_later(server: FakeServer) -> None:
    agent = connect([server])
    (paused,) = agent.servers
    resume, failures = paused.resume, [1, 2]

    def fail_twice() -> None:
        if failures:
            failures.pop()
            raise OutageError("the cable was pulled")
        resume()

    paused.resume = fail_twice  # type: ignore[method-assign]
    with agent.paused():
        assert not paused.ready() and paused.alive()
    assert not failures
    assert len(agent.act(ask()).token_ids) == 8
    agent.close()


def test_a_server_that_is_gone_does_not_hold_up_a_pause(servers: list[FakeServer]) -> None:
    agent = connect(servers)
    servers[0].kill()
    with agent.paused():
        agent.set_version(1)
    assert set(agent.act(ask()).policy_version.tolist()) == {1}
    agent.close()


def test_a_new_version_forgets_what_the_old_one_computed(server: FakeServer) -> None:
    agent = connect([server])
    ids = list(range(40))

    def cached() -> int:
        order = GenerateRequest(rid="r", input_ids=ids, max_new_tokens=1)
        return agent.servers[0].generate(order).meta_info.cached_tokens

    assert [cached(), cached()] == [0, 39]
    with agent.paused():
        agent.set_version(1)
    assert cached() == 0
    agent.close()


def test_weights_without_a_number_are_the_first_version(server: FakeServer) -> None:
    agent = connect([server], version=17)
    assert set(agent.act(ask()).policy_version.tolist()) == {17}
    SGLangServer(server.url).set_weight_version("from-somewhere")
    assert set(agent.act(ask()).policy_version.tolist()) == {17}
    SGLangServer(server.url).set_weight_version("18")
    assert set(agent.act(ask()).policy_version.tolist()) == {18}
    agent.close()


def test_a_cancelled_turn_keeps_what_it_has(server: FakeServer) -> None:
    agent = connect([server])
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.act, long_turn(budget=4000, cancel=cancel))
        while not SGLangServer(server.url).loads()[0].num_running_reqs:
            time.sleep(0.01)
        time.sleep(0.2)
        cancel()
        got = running.result(20)
    assert got.finish_reason == "abort" and 0 < len(got.token_ids) < 4000
    assert SGLangServer(server.url).loads()[0].num_running_reqs == 0
    agent.close()


def test_cancelling_works_at_a_server_that_does_not_react(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has paused it, so no abort reaches a request that waits outside."""
    monkeypatch.setattr(aborting, "DROP_SECONDS", 0.3)
    agent = connect([server])
    SGLangServer(server.url).pause()
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(agent.act, ask(cancel=cancel))
        time.sleep(0.2)
        cancel()
        assert running.result(20).finish_reason == "abort"
    agent.close()


def test_cancelling_works_in_our_own_pause(server: FakeServer) -> None:
    agent = connect([server])
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool, agent.paused():
        running = pool.submit(agent.act, ask(cancel=cancel))
        time.sleep(0.1)
        cancel()
        assert running.result(5).finish_reason == "abort"
    agent.close()


def test_closing_ends_what_waits(server: FakeServer) -> None:
    agent = connect([server])
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(agent.act, long_turn(budget=4000, session=k)) for k in range(2)]
        time.sleep(0.3)
        agent.close()
        for future in running:
            with pytest.raises(EngineError, match="closed"):
                future.result(10)
    with pytest.raises(EngineError, match="closed"):
        agent.act(ask())


@pytest.mark.parametrize("urls", [[], ["localhost:30000"], ["ftp://host"]])
def test_an_address_that_cannot_be_one_is_refused(urls: list[str]) -> None:
    with pytest.raises(UsageError):
        SGLangAgent(urls, TOKENIZER)


def test_a_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'retract'"):
        SGLangAgent(["http://127.0.0.1:1"], TOKENIZER, pause_mode="retrct")  # type: ignore[arg-type]


def reply(ids: Sequence[int], finish: str = "stop", **meta) -> GenerateReply:
    rows = [[-float(k + 1), token, None] for k, token in enumerate(ids)]
    return GenerateReply.model_validate(
        {
            "output_ids": list(ids),
            "meta_info": {"finish_reason": {"type": finish}, "output_token_logprobs": rows, **meta},
        }
    )


def turn(**settings) -> Turn:
    return Turn(ask(**settings), TOKENIZER, number=lambda name: int(name or 0))


def test_a_turn_of_two_pieces_is_one_turn() -> None:
    made = turn(budget=10)
    made.add(reply(b"ab", "abort", weight_version="3"))
    assert made.finish_reason == "" and made.generation().finish_reason == "abort"
    made.add(reply(b"cd", "stop", weight_versions=[{"version": "3", "start": 0, "end": 1}], weight_version="4"))
    got = made.generation()
    assert (bytes(got.token_ids.tolist()), got.finish_reason) == (b"abcd", "stop")
    assert got.logprobs.tolist() == [-1, -2, -1, -2]
    assert got.policy_version.tolist() == [3, 3, 3, 4]


@pytest.mark.parametrize("pieces", [[b"x</co", b"de>y"], [b"x</code>yz"], [b"x", b"", b"</code>"]])
def test_a_stop_string_is_found_wherever_it_is(pieces: list[bytes]) -> None:
    made = turn(budget=20, stop=("</code>",))
    for piece in pieces:
        made.add(reply(piece, "abort"))
    got = made.generation()
    assert (bytes(got.token_ids.tolist()), got.finish_reason) == (b"x</code>", "stop")
    assert len(got.logprobs) == len(got.policy_version) == 8


def test_a_piece_that_uses_up_the_budget_is_cut_by_length() -> None:
    made = turn(budget=3)
    made.add(reply(b"abc", "abort"))
    assert made.finish_reason == "length"


def test_logprobs_of_other_ids_are_a_bug() -> None:
    wrong = {"output_ids": [1, 2], "meta_info": {"finish_reason": {"type": "stop"}}}
    with pytest.raises(AssertionError, match="are not those of the ids"):
        turn().add(GenerateReply.model_validate(wrong))


def test_a_reply_without_counts_or_spans_is_read() -> None:
    body = {"text": "", "output_ids": [], "meta_info": {"id": "x", "finish_reason": {"type": "abort", "message": "no"}}}
    (one,) = parse_replies(json.dumps(body).encode())
    assert len(parse_replies(json.dumps([body, body]).encode())) == 2
    assert (one.logprobs, one.version_names, one.meta_info.prompt_tokens) == ([], [], None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "too  long"}}',
        b'{"error": "too long"}',
        b'{"object": "error", "message": "too long"}',
        b"too\nlong",
    ],
)
def test_errors_of_every_shape_are_read(body: bytes) -> None:
    assert error_message(body) == "too long"


def test_every_sampling_setting_is_written_out() -> None:
    def written(top_k: int) -> dict:
        sampling = Sampling(top_k=top_k)
        return GenerateRequest(rid="r", input_ids=[1], max_new_tokens=5, seed=2**40 + 3, sampling=sampling).body()[
            "sampling_params"
        ]  # type: ignore[return-value]

    params = written(0)
    assert (params["top_k"], params["temperature"], params["top_p"], params["sampling_seed"]) == (-1, 1.0, 1.0, 3)
    assert written(9)["top_k"] == 9


def test_a_server_that_answers_nonsense_is_no_outage() -> None:
    """Something else listens there: it is not tried again."""

    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"hi")

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        agent = SGLangAgent([f"http://127.0.0.1:{other.server_address[1]}"], TOKENIZER, context_length=100)
        with pytest.raises(EngineError, match="no generation") as caught:
            agent.act(ask())
        assert not isinstance(caught.value, OutageError)
        agent.close()
        other.shutdown()
