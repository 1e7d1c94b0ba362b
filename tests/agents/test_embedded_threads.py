"""The embedded engine between threads: who drives, what a pause holds, what an update does to requests in flight."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.base import Generation, Request
from agents.embedded import EmbeddedAgent
from agents.embedded.feed import Feed
from agents.loading import load_model
from retool_env.errors import EngineError
from retool_env.sandbox import Cancel
from retool_env.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """On a busy machine two OpenMP threads wait for each other at every small operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture
def agent(tiny_folder: Path, tokenizer: Tokenizer) -> Iterator[EmbeddedAgent]:
    made = EmbeddedAgent(load_model(str(tiny_folder)), tokenizer)
    yield made
    made.close()


def request(number: int, budget: int = 30, **settings) -> Request:
    ids = np.random.default_rng(number).integers(300, 1000, size=10 + number % 7)
    return Request(token_ids=ids, budget=budget, seed=number, session=number, group=number, **settings)


def exact(agent: EmbeddedAgent, asked: Request, got: Generation, start: int = 0) -> bool:
    """The log-probabilities from ``start`` on are those of the agent's present weights."""
    whole = np.concatenate([asked.token_ids, got.token_ids])
    model = copy.deepcopy(agent.model).double()
    with torch.no_grad():
        logprobs = model(input_ids=torch.from_numpy(whole)[None]).logits[0].log_softmax(-1)
    oracle = logprobs[len(asked.token_ids) - 1 : -1].gather(-1, torch.from_numpy(got.token_ids)[:, None])[:, 0].numpy()
    return bool(np.abs(got.logprobs - oracle)[start:].max() <= 1e-4)


class Brake:
    """Lets the engine do a number of steps, then holds it until :meth:`release`; notes the batch sizes."""

    def __init__(self, agent: EmbeddedAgent, steps: int) -> None:
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        self.reached, self._free = threading.Event(), threading.Event()
        self._steps = steps
        self._forward, agent._batch._forward = agent._batch._forward, self

    def __call__(self, feed: Feed) -> torch.Tensor:
        self.sizes.append(len(feed.wanted))
        self.threads.add(threading.current_thread().name)
        if len(self.sizes) == self._steps:
            self.reached.set()
            assert self._free.wait(60)
        return self._forward(feed)

    def release(self) -> None:
        self._free.set()


def start_all(pool: ThreadPoolExecutor, agent: EmbeddedAgent, requests: list[Request]) -> list[Future[Generation]]:
    return [pool.submit(agent.act, asked) for asked in requests]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def paused_at(agent: EmbeddedAgent, brake: Brake) -> Iterator[None]:
    """A pause that begins behind the step at which the brake holds."""
    assert brake.reached.wait(60)

    def release() -> None:
        wait_until(lambda: agent._pauses == 1)
        brake.release()

    releaser = threading.Thread(target=release)
    releaser.start()
    with agent.paused():
        releaser.join()
        yield


def test_requests_of_many_threads_join_the_running_batch(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=3)
    requests = [request(k) for k in range(16)]
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(agent.act, requests[0])
        assert brake.reached.wait(60)
        others = start_all(pool, agent, requests[1:])
        wait_until(lambda: len(agent._inbox) == 15)
        brake.release()
        results = [first.result(60), *(other.result(60) for other in others)]
    assert brake.sizes[2] == 1
    assert brake.sizes[3] == 16
    assert all(exact(agent, *pair) for pair in zip(requests, results, strict=True))


def test_threads_get_what_one_batch_gets(agent: EmbeddedAgent) -> None:
    requests = [request(k) for k in range(12)]
    with ThreadPoolExecutor(12) as pool:
        threaded = [future.result(60) for future in start_all(pool, agent, requests)]
    agent.set_version(0)
    for one, other in zip(threaded, agent.act_many(requests), strict=True):
        assert np.array_equal(one.token_ids, other.token_ids)
        assert np.abs(one.logprobs - other.logprobs).max() <= 1e-5


def test_serve_drives_in_the_calling_thread(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=0)
    with ThreadPoolExecutor(4) as pool:
        futures: list[Future[Generation]] = []
        agent_is_served = threading.Event()

        def done() -> bool:
            agent_is_served.set()
            return bool(futures) and all(future.done() for future in futures)

        def ask() -> None:
            assert agent_is_served.wait(60)
            started = start_all(pool, agent, [request(k) for k in range(3)])
            for future in started:
                future.add_done_callback(lambda _: agent.poke())
            futures.extend(started)

        asker = threading.Thread(target=ask)
        asker.start()
        agent.serve(done)
        asker.join()
    assert brake.threads == {threading.current_thread().name}


def test_what_serve_leaves_behind_is_driven_by_the_engine(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=2)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(agent.act, request(1))
        assert brake.reached.wait(60)
        brake.release()
        agent.serve(lambda: len(brake.sizes) >= 5)
        assert exact(agent, request(1), future.result(60))


def test_nothing_is_sampled_in_a_pause(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=3)
    with ThreadPoolExecutor(2) as pool:
        future = pool.submit(agent.act, request(1))
        with paused_at(agent, brake):
            late = pool.submit(agent.act, request(2))
            wait_until(lambda: len(agent._inbox) == 1)
            time.sleep(0.1)
            assert len(brake.sizes) == 3
        results = [future.result(60), late.result(60)]
    assert all(exact(agent, request(k + 1), got) for k, got in enumerate(results))


def test_requests_in_flight_go_on_with_the_new_weights(agent: EmbeddedAgent) -> None:
    """The ids of before keep their version; what follows is exact for the new weights with all ids as context."""
    brake = Brake(agent, steps=8)
    requests = [request(k) for k in range(3)]
    with ThreadPoolExecutor(3) as pool:
        futures = start_all(pool, agent, requests)
        with paused_at(agent, brake):
            with torch.no_grad():
                for parameter in agent.model.parameters():
                    parameter.mul_(1.1)
            agent.set_version(1)
        results = [future.result(60) for future in futures]
    for asked, got in zip(requests, results, strict=True):
        versions = got.policy_version.tolist()
        assert sorted(versions) == versions
        assert set(versions) == {0, 1}
        assert exact(agent, asked, got, start=versions.index(1))
        assert not exact(agent, asked, got)


def test_cancel_from_another_thread(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=4)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(agent.act, request(1, cancel=cancel))
        assert brake.reached.wait(60)
        cancel()
        brake.release()
        got = future.result(60)
    assert (got.finish_reason, len(got.token_ids)) == ("abort", 4)


def test_an_aborted_turn_can_be_continued(agent: EmbeddedAgent) -> None:
    """Partial rollouts: the same session goes on with what it has, and only the last id is fed."""
    brake = Brake(agent, steps=4)
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        asked = request(1, cancel=cancel)
        future = pool.submit(agent.act, asked)
        assert brake.reached.wait(60)
        cancel()
        brake.release()
        partial = future.result(60)
    fed: list[int] = []
    forward = agent._batch._forward

    def note(feed: Feed) -> torch.Tensor:
        fed.append(len(feed.token_ids))
        return forward(feed)

    agent._batch._forward = note
    context = np.concatenate([asked.token_ids, partial.token_ids])
    more = agent.act(Request(token_ids=context, budget=5, session=asked.session))
    assert fed == [1] * 5
    assert exact(agent, Request(token_ids=context, budget=5), more)


def test_close_fails_what_is_in_flight_and_what_comes_later(agent: EmbeddedAgent) -> None:
    brake = Brake(agent, steps=4)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(agent.act, request(1))
        assert brake.reached.wait(60)
        closer = threading.Thread(target=agent.close)
        closer.start()
        wait_until(lambda: agent._closed)
        brake.release()
        closer.join()
        agent.close()
        with pytest.raises(EngineError, match="closed"):
            future.result(60)
    with pytest.raises(EngineError, match="closed"):
        agent.act(request(2))
    assert not any(thread.name == "embedded-engine" for thread in threading.enumerate())


def test_a_failure_reaches_every_thread_and_the_next_request_works(agent: EmbeddedAgent) -> None:
    forward = agent._batch._forward

    def fail(feed: Feed) -> torch.Tensor:
        raise RuntimeError("out of memory")

    agent._batch._forward = fail
    with ThreadPoolExecutor(4) as pool:
        for future in start_all(pool, agent, [request(k) for k in range(4)]):
            with pytest.raises(EngineError, match="out of memory"):
                future.result(60)
    agent._batch._forward = forward
    assert exact(agent, request(1), agent.act(request(1)))
