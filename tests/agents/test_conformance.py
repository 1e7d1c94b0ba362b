"""What every agent promises (``agents.base``), checked for each of them with its own real parts.

Agents that sample from weights are checked against the same weights in transformers, in float64. The real SGLang server
takes part in ``make test-sglang``, or at RETOOL_SGLANG_URL.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.base import Agent, Engine, Generation, Request, Sampling
from agents.loading import load_model
from agents.stops import end_of_turn
from retool_env.errors import UsageError
from retool_env.problems import Message
from retool_env.sandbox import Cancel
from retool_env.tokenizer import FileTokenizer, Tokenizer, load_tokenizer
from tests.agents.contestants import CONTESTANTS, QUESTION, SAMPLERS, Contestant, Maker, close, of, openai

GREEDY = Sampling(temperature=0.0)
OTHERS = ("Compute 806 * 222 modulo 824.\n", "x", "Find the gcd of 120 and 84.\n" * 3)
LONG = 600


everyone, samplers = of(CONTESTANTS), of(SAMPLERS)


@pytest.fixture
def contestant(request: pytest.FixtureRequest, opened: dict[Maker, Contestant]) -> Contestant:
    return opened[request.param]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture
def agent(contestant: Contestant, tokenizer: Tokenizer) -> Iterator[Agent]:
    made = contestant.make(tokenizer)
    yield made
    close(made)


class Oracle:
    """The same weights in transformers, in float64: one plain forward of the whole sequence."""

    def __init__(self, folder: Path) -> None:
        self._model = load_model(str(folder)).double()

    def rows(self, request: Request, ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of every id at each position of ``ids``, ``[num_ids, vocab_size]``."""
        context = request.token_ids.tolist()
        with torch.no_grad():
            logits = self._model(input_ids=torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
        return (logits / (request.sampling.temperature or 1.0)).log_softmax(-1).numpy()

    def check(self, request: Request, got: Generation) -> None:
        """The log-probabilities are right."""
        ids = got.token_ids.tolist()
        expected = self.rows(request, ids)[np.arange(len(ids)), ids]
        assert np.abs(got.logprobs - expected).max(initial=0.0) <= 1e-4


@pytest.fixture(scope="module")
def oracle(tiny_folder: Path) -> Iterator[Oracle]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Oracle(tiny_folder)
    torch.set_num_threads(threads)


def ask(tokenizer: Tokenizer, text: str = f"{QUESTION}\n", **settings) -> Request:
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    messages = (Message(role="user", content=text),)
    return Request(**{"token_ids": ids, "budget": 20, "seed": 5, "messages": messages, **settings})


def check(generation: Generation, request: Request, contestant: Contestant, tokenizer: Tokenizer) -> None:
    """What is true of every turn."""
    ids, logprobs, versions = generation.token_ids, generation.logprobs, generation.policy_version
    assert (ids.dtype, logprobs.dtype, versions.dtype) == (np.int64, np.float32, np.int64)
    assert ids.shape == logprobs.shape == versions.shape == (len(ids),)
    assert len(ids) <= request.budget
    assert len(ids) >= 1 or generation.finish_reason == "abort"
    assert not len(ids) or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    if contestant.weights is None:
        assert np.isnan(logprobs).all() and (versions == -1).all()
    else:
        assert np.isfinite(logprobs).all() and (logprobs <= 0).all() and (versions >= 0).all()
    end = end_of_turn(ids.tolist(), request.stop, tokenizer)
    at_stop = end == len(ids) or (end is None and len(ids) > 0 and ids[-1] == tokenizer.eos_id)
    assert (generation.finish_reason == "stop") == at_stop
    assert end is None or end == len(ids), "sampled beyond a stop string"
    assert tokenizer.eos_id not in ids[:-1].tolist(), "sampled beyond the end of the turn"
    assert generation.finish_reason != "length" or len(ids) == request.budget or contestant.name == "openai"


@pytest.mark.parametrize("budget", [1, 2, 7, 64])
@everyone
def test_a_turn_is_well_formed_within_its_budget(
    contestant: Contestant, agent: Agent, tokenizer: Tokenizer, budget: int
) -> None:
    for seed, sampling in enumerate((Sampling(), GREEDY, Sampling(temperature=0.7, top_p=0.9, top_k=40))):
        request = ask(tokenizer, budget=budget, seed=seed, session=seed, sampling=sampling)
        check(agent.act(request), request, contestant, tokenizer)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.6), GREEDY], ids=["plain", "cool", "greedy"])
@samplers
def test_logprobs_are_those_of_the_weights(
    contestant: Contestant, agent: Agent, tokenizer: Tokenizer, sampling: Sampling, oracle: Oracle
) -> None:
    for session, text in enumerate((f"{QUESTION}\n", *OTHERS)):
        request = ask(tokenizer, text, sampling=sampling, session=session)
        oracle.check(request, agent.act(request))


@samplers
def test_greedy_takes_the_likeliest(contestant: Contestant, agent: Agent, tokenizer: Tokenizer, oracle: Oracle) -> None:
    request = ask(tokenizer, sampling=GREEDY)
    ids = agent.act(request).token_ids.tolist()
    rows = oracle.rows(request, ids)
    assert (rows[np.arange(len(ids)), ids] >= rows.max(-1) - 1e-4).all()


@samplers
def test_a_second_turn_of_a_session_is_scored_like_a_first(
    contestant: Contestant, agent: Agent, tokenizer: Tokenizer, oracle: Oracle
) -> None:
    """Whatever is kept from turn to turn must not be seen."""
    output = tokenizer.encode("</code>\n<interpreter>\n42\n</interpreter>\n")
    request = ask(tokenizer, session=3, budget=9)
    for turn in range(3):
        got = agent.act(request)
        oracle.check(request, got)
        longer = np.array(request.token_ids.tolist() + got.token_ids.tolist() + output, dtype=np.int64)
        request = dataclasses.replace(request, token_ids=longer, turn=turn + 1, seed=turn)


@everyone
def test_a_stop_string_ends_the_turn(contestant: Contestant, agent: Agent, tokenizer: Tokenizer) -> None:
    plain = agent.act(ask(tokenizer, sampling=GREEDY, budget=200))
    text = tokenizer.decode(plain.token_ids)
    stop = contestant.stop or next(
        text[k : k + 2] for k in range(len(text) // 3, len(text)) if text[k : k + 2].isascii()
    )
    request = ask(tokenizer, sampling=GREEDY, budget=200, stop=("never written", stop))
    got = agent.act(request)
    check(got, request, contestant, tokenizer)
    assert got.finish_reason == "stop"
    assert end_of_turn(got.token_ids.tolist(), [stop], tokenizer) == len(got.token_ids)


@samplers
def test_the_end_of_turn_id_ends_the_turn(contestant: Contestant, tokenizer: Tokenizer, tiny_folder: Path) -> None:
    """With a tokenizer whose end-of-turn id is one that the model is sure to sample."""
    plain = contestant.make(tokenizer)
    ids = plain.act(ask(tokenizer, sampling=GREEDY, budget=12)).token_ids.tolist()
    close(plain)
    other = FileTokenizer(tiny_folder)
    other.eos_id = ids[5]
    agent = contestant.make(other)
    got = agent.act(ask(other, sampling=GREEDY, budget=12))
    close(agent)
    assert got.finish_reason == "stop"
    assert got.token_ids.tolist() == ids[: ids.index(other.eos_id) + 1]


@everyone
def test_cancelled_before_it_begins(contestant: Contestant, agent: Agent, tokenizer: Tokenizer) -> None:
    cancel = Cancel()
    cancel()
    request = ask(tokenizer, cancel=cancel, budget=LONG)
    got = agent.act(request)
    check(got, request, contestant, tokenizer)
    assert got.finish_reason == "abort" and len(got.token_ids) < LONG


@of([*SAMPLERS, openai])
def test_cancelled_while_it_runs(contestant: Contestant, agent: Agent, tokenizer: Tokenizer, oracle: Oracle) -> None:
    for attempt in range(6):  # a turn may end by itself before anybody gets to cancel it
        cancel = Cancel()
        request = ask(tokenizer, cancel=cancel, budget=LONG, session=2 * attempt, seed=attempt)
        others = ask(tokenizer, session=2 * attempt + 1)
        with ThreadPoolExecutor(2) as pool:
            running = pool.submit(agent.act, request)
            time.sleep(0.03)
            beside = pool.submit(agent.act, others)
            cancel()
            got = running.result(60)
            check(beside.result(60), others, contestant, tokenizer)
        if got.finish_reason == "abort":
            break
    assert got.finish_reason == "abort" and len(got.token_ids) < LONG
    check(got, request, contestant, tokenizer)
    if contestant.weights is not None and len(got.token_ids):
        oracle.check(request, got)


@everyone
def test_cancelled_when_it_is_over(contestant: Contestant, agent: Agent, tokenizer: Tokenizer) -> None:
    cancel = Cancel()
    request = ask(tokenizer, cancel=cancel, budget=3)
    got = agent.act(request)
    cancel()
    assert got.finish_reason != "abort"
    after = ask(tokenizer, budget=3)
    check(agent.act(after), after, contestant, tokenizer)


@everyone
def test_sixteen_threads(contestant: Contestant, agent: Agent, tokenizer: Tokenizer, oracle: Oracle) -> None:
    texts = [f"{QUESTION} {'Think. ' * k}\n" for k in range(16)]
    requests = [ask(tokenizer, text, session=k, seed=k) for k, text in enumerate(texts)]
    together = threading.Barrier(16)

    def act(request: Request) -> Generation:
        together.wait(30)
        return agent.act(request)

    with ThreadPoolExecutor(16) as pool:
        generations = list(pool.map(act, requests))
    for request, got in zip(requests, generations, strict=True):
        check(got, request, contestant, tokenizer)
        if contestant.weights is not None:
            oracle.check(request, got)
        else:
            assert got.token_ids.tolist() == agent.act(request).token_ids.tolist()


@samplers
def test_every_id_carries_the_version_of_its_weights(
    contestant: Contestant, agent: Agent, tokenizer: Tokenizer
) -> None:
    assert isinstance(agent, Engine)
    for version in (3, 4):
        agent.set_version(version)
        assert agent.policy_version == version
        assert set(agent.act(ask(tokenizer)).policy_version.tolist()) == {version}


@samplers
def test_a_turn_goes_on_behind_a_pause(
    contestant: Contestant, agent: Agent, tokenizer: Tokenizer, oracle: Oracle
) -> None:
    assert isinstance(agent, Engine)
    agent.set_version(7)
    request = ask(tokenizer, budget=150)
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(agent.act, request)
        time.sleep(0.05)
        with agent.paused():
            agent.set_version(8)
            waiting = pool.submit(agent.act, ask(tokenizer, session=1))
            time.sleep(0.3)
            assert not waiting.done()
        got, fresh = running.result(120), waiting.result(120)
    check(got, request, contestant, tokenizer)
    assert got.finish_reason != "abort"
    assert (np.diff(got.policy_version) >= 0).all() and set(got.policy_version.tolist()) <= {7, 8}
    assert set(fresh.policy_version.tolist()) == {8}
    oracle.check(request, got)


@everyone
def test_what_cannot_be_served_is_refused(contestant: Contestant, agent: Agent, tokenizer: Tokenizer) -> None:
    size = tokenizer.vocab_size
    for ids, budget in (([], 5), ([1, 2], 0), ([1, size], 5), ([-1], 5)):
        with pytest.raises(UsageError):
            agent.act(ask(tokenizer, token_ids=np.array(ids, dtype=np.int64), budget=budget))
    good = ask(tokenizer)
    check(agent.act(good), good, contestant, tokenizer)


@samplers
def test_more_than_the_context_is_refused(contestant: Contestant, agent: Agent, tokenizer: Tokenizer) -> None:
    limit = load_model(str(contestant.weights)).config.max_position_embeddings - contestant.reserved
    ids = np.full(limit - 10, tokenizer.encode("x")[0], dtype=np.int64)
    with pytest.raises(UsageError, match=r"context|positions"):
        agent.act(ask(tokenizer, token_ids=ids, budget=11))
    fitting = ask(tokenizer, token_ids=ids, budget=10)
    check(agent.act(fitting), fitting, contestant, tokenizer)


@everyone
def test_it_can_be_closed_twice(contestant: Contestant, tokenizer: Tokenizer) -> None:
    agent = contestant.make(tokenizer)
    agent.act(ask(tokenizer, budget=1))
    close(agent)
    close(agent)
