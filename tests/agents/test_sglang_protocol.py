"""SGLang's protocol as we build on it, from the wire: the fake has to behave so, and a real server does (where there is
one; see ``contestants``). Each test leaves the server as it found it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from agents.base import Sampling
from agents.loading import load_model
from agents.sglang import SGLangAgent, SGLangServer
from agents.sglang.server import RefusedError
from agents.sglang.wire import GenerateRequest
from algos.config import TinyModelConfig
from algos.tiny import make_tiny
from retool_env.tokenizer import Tokenizer, load_tokenizer
from tests.agents.contestants import Maker, sglang_fake, sglang_real
from tests.agents.fake_server import fake_sglang

CONTEXT = "What is 3 + 4?\n"
GREEDY = {"temperature": 0.0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def opened(tiny_folder: Path) -> Iterator[dict[Maker, SGLangServer]]:
    class Opened(dict[Maker, SGLangServer]):
        def __missing__(self, make: Maker) -> SGLangServer:
            agent = stack.enter_context(make(tiny_folder)).make(load_tokenizer(str(tiny_folder)))
            assert isinstance(agent, SGLangAgent)
            (self[make],) = agent.servers
            return self[make]

    with ExitStack() as stack:
        yield Opened()


@pytest.fixture(
    params=[
        pytest.param(sglang_fake, id="fake"),
        pytest.param(sglang_real, id="real", marks=pytest.mark.sglang),
    ]
)
def server(request: pytest.FixtureRequest, opened: dict[Maker, SGLangServer]) -> SGLangServer:
    return opened[request.param]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(CONTEXT)


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shape with other weights."""
    folder = tmp_path_factory.mktemp("other")
    make_tiny(folder, TinyModelConfig(hidden_size=64, intermediate_size=128, num_layers=2), seed=1)
    return folder


def post(server: SGLangServer, path: str, body: object, *, timeout: float = 120.0) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=timeout) as client:
        return client.post(f"{server.url}{path}", json=body)


def generate(server: SGLangServer, prompt: object, params: dict[str, Any] | None = None, **fields) -> Any:
    body = {"input_ids": prompt, "sampling_params": params or GREEDY, "return_logprob": True, **fields}
    answer = post(server, "/generate", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def in_flight(
    server: SGLangServer, prompt: list[int], rid: str, num_tokens: int = 600, *, beside: int = 0
) -> Iterator[Future[Any]]:
    """A long request that has begun, ``beside`` others."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(generate, server, prompt, {"max_new_tokens": num_tokens, "ignore_eos": True}, rid=rid)
        deadline = time.monotonic() + 60
        while sum(load.num_running_reqs for load in server.loads()) <= beside:
            assert time.monotonic() < deadline and not running.done()
            time.sleep(0.01)
        yield running


def greedy_ids(folder: Path, prompt: list[int], count: int) -> list[int]:
    model, ids = load_model(str(folder)), list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_ids_are_those_of_the_checkpoint(server: SGLangServer, prompt: list[int], tiny_folder: Path) -> None:
    assert generate(server, prompt)["output_ids"] == greedy_ids(tiny_folder, prompt, 8)


def test_one_request_gives_an_object_and_several_a_list(server: SGLangServer, prompt: list[int]) -> None:
    one = generate(server, prompt)
    two = generate(server, [prompt, prompt[:3]])
    samples = generate(server, prompt, {"max_new_tokens": 3, "n": 3})
    assert isinstance(one, dict)
    assert [row["meta_info"]["prompt_tokens"] for row in two] == [len(prompt), 3]
    assert len(samples) == 3 and len({row["meta_info"]["id"] for row in samples}) == 3


def test_every_id_has_its_logprob(server: SGLangServer, prompt: list[int]) -> None:
    reply = generate(server, prompt, {"max_new_tokens": 9, "ignore_eos": True})
    rows = reply["meta_info"]["output_token_logprobs"]
    assert [token for _, token, _ in rows] == reply["output_ids"] and len(rows) == 9
    assert reply["meta_info"]["completion_tokens"] == 9
    assert reply["meta_info"]["finish_reason"]["type"] == "length"
    assert reply["meta_info"].get("input_token_logprobs", []) == []


def test_a_prompt_can_be_scored_and_its_first_logprob_is_null(server: SGLangServer, prompt: list[int]) -> None:
    reply = generate(server, prompt, {"max_new_tokens": 0}, logprob_start_len=0)
    rows = reply["meta_info"]["input_token_logprobs"]
    assert rows[0][0] is None and [token for _, token, _ in rows] == prompt
    assert all(logprob < 0 for logprob, _, _ in rows[1:])
    assert reply["output_ids"] == []


@pytest.mark.parametrize("top", [{"top_k": 5}, {"top_p": 0.05}])
def test_logprobs_are_tempered_and_over_the_whole_vocabulary(
    server: SGLangServer, prompt: list[int], tiny_folder: Path, top: dict[str, float]
) -> None:
    reply = generate(server, prompt, {"max_new_tokens": 12, "temperature": 0.7, "ignore_eos": True, **top})
    ids = reply["output_ids"]
    model = load_model(str(tiny_folder)).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    expected = (logits / 0.7).log_softmax(-1)[torch.arange(len(ids)), ids].numpy()
    got = [logprob for logprob, _, _ in reply["meta_info"]["output_token_logprobs"]]
    assert np.abs(np.array(got) - expected).max() <= 1e-4


def test_a_stop_id_is_kept_in_the_ids_and_not_in_the_text(
    server: SGLangServer, prompt: list[int], tokenizer: Tokenizer
) -> None:
    plain = generate(server, prompt)["output_ids"]
    reply = generate(server, prompt, {**GREEDY, "stop_token_ids": [plain[4]], "skip_special_tokens": False})
    end = plain.index(plain[4])
    assert reply["output_ids"] == plain[: end + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": plain[4]}
    assert reply["text"] == tokenizer.decode(plain[:end])


def test_a_stop_string_is_cut_from_the_text_and_not_from_the_ids(
    server: SGLangServer, prompt: list[int], tokenizer: Tokenizer
) -> None:
    plain = generate(server, prompt)["output_ids"]
    stop = tokenizer.decode([plain[3]])
    reply = generate(server, prompt, {**GREEDY, "stop": [stop], "skip_special_tokens": False})
    first = next(k for k in range(len(plain)) if stop in tokenizer.decode(plain[: k + 1]))
    assert reply["output_ids"] == plain[: first + 1]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert stop not in reply["text"]


def test_what_was_computed_is_used_again_until_it_is_flushed(server: SGLangServer, prompt: list[int]) -> None:
    server.flush_cache()
    cached = [generate(server, prompt)["meta_info"]["cached_tokens"] for _ in range(2)]
    server.flush_cache()
    assert [*cached, generate(server, prompt)["meta_info"]["cached_tokens"]] == [0, len(prompt) - 1, 0]


def test_chunks_of_a_stream_tell_everything_from_the_start(server: SGLangServer, prompt: list[int]) -> None:
    body = {"input_ids": prompt, "sampling_params": {"max_new_tokens": 20, "ignore_eos": True}, "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=60.0) as client,
        client.stream("POST", f"{server.url}/generate", json=body) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    *chunks, end = lines
    rows = [json.loads(chunk)["output_ids"] for chunk in chunks]
    assert end == "[DONE]" and len(rows[-1]) == 20
    assert all(rows[-1][: len(row)] == row for row in rows)
    assert "weight_versions" in json.loads(chunks[-1])["meta_info"]


@pytest.mark.parametrize(
    "body",
    [
        {"input_ids": [1], "sampling_params": {"temprature": 1}},
        {"input_ids": [1], "sampling_params": {"temperature": -1}},
        {"input_ids": [1], "sampling_params": {"max_new_tokens": 10**6}},
        {"input_ids": []},
        {"sampling_params": {}},
    ],
    ids=["unknown key", "bad value", "too long", "no ids", "no prompt"],
)
def test_a_wrong_request_is_refused_with_400(server: SGLangServer, body: dict[str, Any]) -> None:
    answer = post(server, "/generate", body)
    assert answer.status_code == 400
    assert "error" in answer.json() or answer.json()["object"] == "error"


def test_an_unknown_field_beside_the_sampling_settings_is_ignored(server: SGLangServer, prompt: list[int]) -> None:
    assert generate(server, prompt, nonsense=1)["output_ids"] == generate(server, prompt)["output_ids"]


def test_an_abort_ends_a_request_with_what_it_has(server: SGLangServer, prompt: list[int]) -> None:
    rid = uuid.uuid4().hex
    with in_flight(server, prompt, rid) as running:
        server.abort(rid[:-1])  # nobody is called that
        post(server, "/abort_request", {"rid": ""})
        server.abort(rid)
        reply = running.result(60)
    assert reply["meta_info"]["finish_reason"]["type"] == "abort"
    assert 0 < len(reply["output_ids"]) < 600
    assert len(reply["meta_info"]["output_token_logprobs"]) == len(reply["output_ids"])


def test_an_abort_ends_every_request_whose_name_begins_so(server: SGLangServer, prompt: list[int]) -> None:
    """Why all names of ours are equally long."""
    with in_flight(server, prompt, "job-1") as one, in_flight(server, prompt, "job-12", beside=1) as twelve:
        server.abort("job-1")
        ends = [running.result(60)["meta_info"]["finish_reason"]["type"] for running in (one, twelve)]
    assert ends == ["abort", "abort"]


def test_two_positions_of_the_context_stay_free(server: SGLangServer) -> None:
    limit = server.context_length()
    assert limit is not None
    reply = generate(server, [5] * (limit - 10), {"max_new_tokens": 10, "ignore_eos": True})
    assert (len(reply["output_ids"]), reply["meta_info"]["finish_reason"]["type"]) == (8, "length")


def test_a_name_in_use_is_refused(server: SGLangServer, prompt: list[int]) -> None:
    rid = uuid.uuid4().hex
    with in_flight(server, prompt, rid) as running:
        body = {"input_ids": prompt, "rid": rid, "sampling_params": GREEDY}
        assert post(server, "/generate", body).status_code == 400
        server.abort(rid)
        running.result(60)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_paused_server_keeps_its_requests_and_lets_new_ones_wait(
    server: SGLangServer, prompt: list[int], mode: Any
) -> None:
    with in_flight(server, prompt, uuid.uuid4().hex, 200) as running, ThreadPoolExecutor(1) as pool:
        server.pause(mode)
        try:
            waiting = pool.submit(generate, server, prompt)
            time.sleep(0.5)
            assert server.alive() and not server.ready() and not running.done() and not waiting.done()
        finally:
            server.resume()
        assert len(running.result(120)["output_ids"]) == 200
        assert waiting.result(60)["output_ids"]


def test_a_pause_may_end_what_runs(server: SGLangServer, prompt: list[int]) -> None:
    with in_flight(server, prompt, uuid.uuid4().hex) as running:
        server.pause("abort")
        try:
            assert running.result(60)["meta_info"]["finish_reason"]["type"] == "abort"
        finally:
            server.resume()


def test_an_update_from_disk_in_a_pause(
    server: SGLangServer, prompt: list[int], tiny_folder: Path, other_folder: Path
) -> None:
    """New weights, their name by span, and both ways back."""
    before = server.model_info().weight_version or "default"
    with in_flight(server, prompt, uuid.uuid4().hex, 200) as running:
        server.pause("retract")
        reply = server.update_from_disk(str(other_folder), version="v-other")
        server.resume()
        spans = running.result(120)["meta_info"]["weight_versions"]
    assert reply.success and reply.flushed
    assert [span["version"] for span in spans] == [before, "v-other"]
    assert spans[0]["start"] == 0 and spans[0]["end"] == spans[1]["start"] and spans[1]["end"] == 200
    assert generate(server, prompt)["output_ids"] == greedy_ids(other_folder, prompt, 8)
    info = httpx.get(f"{server.url}/model_info", trust_env=False).json()
    assert info["model_path"] == info["served_model_name"] == str(other_folder)
    sums = server.checksums()
    server.pause("retract")
    assert server.update_from_disk(str(tiny_folder), version=before).success
    server.resume()
    assert generate(server, prompt)["output_ids"] == greedy_ids(tiny_folder, prompt, 8)
    assert server.checksums() != sums


def test_a_checkpoint_that_is_not_there_changes_nothing(
    server: SGLangServer, prompt: list[int], tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError):
        server.update_from_disk(str(tmp_path / "none"), version="v-none")
    assert server.model_info().weight_version != "v-none"
    assert generate(server, prompt)["output_ids"] == greedy_ids(tiny_folder, prompt, 8)


def test_a_flush_that_fails_is_no_failed_update(server: SGLangServer, prompt: list[int], tiny_folder: Path) -> None:
    """Frozen requests hold the cache: status 400, and the weights are the new ones all the same."""
    rid = uuid.uuid4().hex
    before = server.model_info().weight_version or "default"
    with in_flight(server, prompt, rid) as running:
        server.pause("in_place")
        reply = server.update_from_disk(str(tiny_folder), version=before)
        with pytest.raises(RefusedError):
            server.flush_cache(seconds=0.2)
        server.resume()
        server.abort(rid)
        running.result(60)
    assert reply.success and not reply.flushed
    server.flush_cache()


def test_a_flush_in_a_pause_must_not_wait(server: SGLangServer, prompt: list[int]) -> None:
    """Requests that were put back into the queue do not hold it up, but one that waits for idleness waits for them."""
    with in_flight(server, prompt, uuid.uuid4().hex, 200) as running:
        server.pause("retract")
        try:
            assert post(server, "/flush_cache?timeout=0.5", {}).status_code == 400
            assert post(server, "/flush_cache", {}).status_code == 200
            server.flush_cache(seconds=0.5)
        finally:
            server.resume()
        assert len(running.result(120)["output_ids"]) == 200


def test_renaming_weights_leaves_requests_alone(server: SGLangServer, prompt: list[int]) -> None:
    before = server.model_info().weight_version or "default"
    with in_flight(server, prompt, uuid.uuid4().hex, 200) as running:
        server.set_weight_version("v-named")
        assert len(running.result(120)["output_ids"]) == 200
    assert server.model_info().weight_version == "v-named"
    server.set_weight_version(before)


def test_a_session_of_updates_is_opened_once_and_closed_once(server: SGLangServer) -> None:
    """So one that a trainer leaves open keeps all others out."""
    assert server.begin_update()
    with pytest.raises(RefusedError, match="already open"):
        server.begin_update()
    assert server.end_update()
    with pytest.raises(RefusedError, match="no weight-update session is open"):
        server.end_update()


def test_the_server_says_what_it_is(server: SGLangServer, tiny_folder: Path) -> None:
    assert server.server_info().tp_size == 1
    assert server.context_length() == load_model(str(tiny_folder)).config.max_position_embeddings
    assert sum(load.num_running_reqs for load in server.loads()) == 0


def test_typed_and_raw_replies_agree(server: SGLangServer, prompt: list[int]) -> None:
    order = GenerateRequest(
        rid=uuid.uuid4().hex, input_ids=prompt, max_new_tokens=8, sampling=Sampling(temperature=0.0)
    )
    reply, raw = server.generate(order), generate(server, prompt)
    assert reply.output_ids == raw["output_ids"]
    assert np.allclose(reply.logprobs, [row[0] for row in raw["meta_info"]["output_token_logprobs"]], atol=1e-5)
    assert set(reply.version_names) == {server.model_info().weight_version}


def test_an_id_outside_of_the_vocabulary_kills_a_server(tiny_folder: Path) -> None:
    """Why the client looks first. Only the fake is killed on purpose."""
    with fake_sglang("--random") as victim:
        with pytest.raises(httpx.TransportError):
            victim.post("/generate", {"input_ids": [10**6], "sampling_params": {}})
        assert victim.process.wait(10) == 1


def test_a_queued_request_is_aborted_without_counts() -> None:
    flags = ("--random", "--max-running-requests", 1, "--step-seconds", 0.01)
    with fake_sglang(*flags) as server, ThreadPoolExecutor(2) as pool:
        long = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True}}
        first = pool.submit(server.post, "/generate", {**long, "rid": "a" * 8})
        while not server.get("/v1/loads").json()["loads"][0]["num_running_reqs"]:
            time.sleep(0.01)
        queued = pool.submit(server.post, "/generate", {**long, "rid": "b" * 8})
        while not server.get("/v1/loads").json()["loads"][0]["num_waiting_reqs"]:
            time.sleep(0.01)
        server.post("/abort_request", {"rid": "b" * 8})
        meta = queued.result(30).json()["meta_info"]
        server.post("/abort_request", {"abort_all": True})
        assert first.result(30).json()["meta_info"]["prompt_tokens"] == 2
    assert meta["finish_reason"]["message"] == "Abort in waiting queue" and "prompt_tokens" not in meta


def test_health_and_ready_fail_in_a_pause() -> None:
    with fake_sglang("--random", "--health-seconds", 0.3) as server:
        assert server.get("/health").status_code == 200
        server.post("/pause_generation", {"mode": "retract"})
        assert (server.get("/health").status_code, server.get("/ready").status_code) == (503, 503)
        server.post("/continue_generation", {})
        assert server.get("/health").status_code == 200


def test_a_client_that_goes_away_ends_its_request() -> None:
    with fake_sglang("--random", "--step-seconds", 0.01) as server:
        body = {"input_ids": [1], "sampling_params": {"max_new_tokens": 5000, "ignore_eos": True}}
        with pytest.raises(httpx.ReadTimeout), httpx.Client(trust_env=False, timeout=0.5) as client:
            client.post(f"{server.url}/generate", json=body)
        deadline = time.monotonic() + 20
        while server.get("/v1/loads").json()["loads"][0]["num_running_reqs"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
