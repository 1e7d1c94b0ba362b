"""The embedded engine as an agent: exact log-probabilities, the cache across turns, stops, budgets, determinism."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.base import Engine, Generation, Request, Sampling
from agents.embedded import EmbeddedAgent
from agents.embedded.batch import Batch
from agents.embedded.feed import Feed
from agents.loading import load_model
from retool_env.errors import EngineError, UsageError
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


class Tape:
    """Notes how many ids every step feeds, and how many logits it wants."""

    def __init__(self, agent: EmbeddedAgent) -> None:
        self.steps: list[tuple[int, int]] = []
        self._forward, agent._batch._forward = agent._batch._forward, self

    def __call__(self, feed: Feed) -> torch.Tensor:
        self.steps.append((len(feed.token_ids), len(feed.wanted)))
        return self._forward(feed)

    @property
    def num_ids(self) -> int:
        return sum(ids for ids, _ in self.steps)


def request(ids: list[int], **settings) -> Request:
    return Request(token_ids=np.array(ids, dtype=np.int64), **{"budget": 20, "seed": 3, **settings})


def teacher_forced(agent: EmbeddedAgent, context: list[int], sampled: list[int], temperature: float = 1.0):
    """The oracle: one plain forward of the whole sequence in float64."""
    model = copy.deepcopy(agent.model).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + sampled])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[len(context) + k - 1, token]) for k, token in enumerate(sampled)]


def assert_exact(agent: EmbeddedAgent, context: list[int], generation: Generation, temperature: float = 1.0) -> None:
    oracle = teacher_forced(agent, context, generation.token_ids.tolist(), temperature)
    assert len(generation.token_ids) == len(generation.logprobs) == len(generation.policy_version)
    assert np.abs(generation.logprobs - oracle).max() <= 1e-4


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    texts = ["What is 3 + 4?\n", "Compute 806 * 222 modulo 824.\n", "x", "Find the gcd of 120 and 84.\n" * 3]
    return [tokenizer.encode(text) for text in texts]


def test_it_is_an_engine(agent: EmbeddedAgent) -> None:
    assert isinstance(agent, Engine)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.6), Sampling(temperature=0.0), Sampling(temperature=0.8, top_k=5, top_p=0.9)],
)
def test_logprobs_are_those_of_the_model(agent: EmbeddedAgent, tokenizer: Tokenizer, sampling: Sampling) -> None:
    contexts = prompts(tokenizer)
    generations = agent.act_many([request(c, seed=k, session=k, sampling=sampling) for k, c in enumerate(contexts)])
    for context, generation in zip(contexts, generations, strict=True):
        assert_exact(agent, context, generation, sampling.temperature or 1.0)


def test_requests_of_several_kinds_share_a_batch(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    kinds = [Sampling(), Sampling(temperature=0.0), Sampling(temperature=0.5), Sampling(top_k=1)]
    contexts = prompts(tokenizer)
    together = agent.act_many(
        [request(c, seed=k, session=k, sampling=s) for k, (c, s) in enumerate(zip(contexts, kinds, strict=True))]
    )
    for k, (context, kind, generation) in enumerate(zip(contexts, kinds, together, strict=True)):
        assert_exact(agent, context, generation, kind.temperature or 1.0)
        alone = agent.act_many([request(context, seed=k, session=k, sampling=kind)])[0]
        assert np.array_equal(alone.token_ids, generation.token_ids)


def test_a_second_turn_reads_only_what_is_new(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    """Rows of different length and history; the tool's output is all that is fed, and the numbers stay exact."""
    contexts = prompts(tokenizer)
    first = agent.act_many([request(c, seed=k, session=k, group=k, budget=7 + k) for k, c in enumerate(contexts)])
    output = tokenizer.encode("</code>\n<interpreter>\n42\n</interpreter>\n")
    longer = [c + g.token_ids.tolist() + output for c, g in zip(contexts, first, strict=True)]
    tape = Tape(agent)
    second = agent.act_many([request(c, seed=9 + k, session=k, group=k, budget=1) for k, c in enumerate(longer)])
    assert tape.steps == [(len(contexts) * (len(output) + 1), len(contexts))]  # and the last id, which was not fed
    for context, generation in zip(longer, second, strict=True):
        assert_exact(agent, context, generation)


def test_a_session_that_does_not_fit_is_not_used(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    agent.act(request(tokenizer.encode("What is 9"), session=5))
    assert_exact(agent, context, agent.act(request(context, session=5)))


def test_a_group_reads_its_prompt_once(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("Find the gcd of 120 and 84.\n" * 3)
    tape = Tape(agent)
    batch = [request(prompt, seed=k, session=k, group=1, budget=30) for k in range(8)]
    generations = agent.act_many(batch)
    # The prompt, its last id for each of the seven others, and every sampled id but the last of each row.
    assert tape.num_ids == len(prompt) + 7 + sum(len(g.token_ids) - 1 for g in generations)
    assert len({tuple(g.token_ids.tolist()) for g in generations}) == 8
    for generation in generations:
        assert_exact(agent, prompt, generation)


def test_a_group_shares_what_its_prompts_have_in_common(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    common = tokenizer.encode("Find the gcd of 120 and 84.\n" * 3)
    contexts = [common + tokenizer.encode(f"Hint {k}: think.\n") for k in range(4)]
    tape = Tape(agent)
    generations = agent.act_many([request(c, session=k, group=7, budget=1) for k, c in enumerate(contexts)])
    # "Hint " is common too.
    assert tape.num_ids < len(common) + sum(len(c) - len(common) for c in contexts)
    for context, generation in zip(contexts, generations, strict=True):
        assert_exact(agent, context, generation)


def test_same_seed_same_ids_and_bits(tiny_folder: Path, tokenizer: Tokenizer) -> None:
    """Whatever was asked before: two turns each, groups, more requests than rows, on one engine and on two."""
    agents = [EmbeddedAgent(load_model(str(tiny_folder)), tokenizer, max_rows=3) for _ in range(2)]
    made: list[list[Generation]] = []
    for agent in (agents[0], agents[0], agents[1]):
        contexts = prompts(tokenizer) * 2
        first = agent.act_many([request(c, seed=k, session=k, group=k % 4) for k, c in enumerate(contexts)])
        longer = [c + g.token_ids.tolist() + [9] for c, g in zip(contexts, first, strict=True)]
        made.append(first + agent.act_many([request(c, seed=k, session=k) for k, c in enumerate(longer)]))
    for one, *others in zip(*made, strict=True):
        for other in others:
            assert np.array_equal(one.token_ids, other.token_ids)
            assert np.array_equal(one.logprobs, other.logprobs)
    other = agent.act(request(prompts(tokenizer)[0], seed=99))
    assert not np.array_equal(other.token_ids, made[0][0].token_ids)
    agent.close()


def test_sampling_follows_the_distribution(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    """Chi-square of 4,000 first tokens against the model's own distribution, over the likeliest tokens and the rest."""
    context = tokenizer.encode("What is 3 + 4?\n")
    draws = 4000
    batch = [request(context, seed=k, session=k, budget=1) for k in range(draws)]
    first = [int(generation.token_ids[0]) for generation in agent.act_many(batch)]
    with torch.no_grad():
        probabilities = agent.model(input_ids=torch.tensor([context])).logits[0, -1].double().softmax(-1).numpy()
    top = np.argsort(-probabilities)[:30]
    expected = np.append(probabilities[top], 1 - probabilities[top].sum()) * draws
    counts = np.append([first.count(t) for t in top], draws - sum(first.count(t) for t in top))
    assert ((counts - expected) ** 2 / expected).sum() < 59.7  # 0.999 quantile with 30 degrees of freedom


def test_budget_and_finish_reasons(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    one = agent.act(request(context, budget=1))
    assert (len(one.token_ids), one.finish_reason) == (1, "length")
    cut = agent.act(request(context, budget=3))
    assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
    frequent = int(agent.act(request(context, sampling=Sampling(temperature=0.0))).token_ids[1])
    stop = (tokenizer.decode([frequent]),)
    stopped = agent.act(request(context, sampling=Sampling(temperature=0.0), stop=stop))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids.tolist().count(frequent) == 1
    assert stopped.token_ids[-1] == frequent


def test_the_end_of_turn_id_ends_a_turn(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    with torch.no_grad():  # tied embeddings: a large row is drawn as soon as the hidden state points its way
        agent.model.get_input_embeddings().weight[tokenizer.eos_id] *= 40
    generations = agent.act_many([request(prompts(tokenizer)[0], seed=k, session=k, budget=200) for k in range(8)])
    stopped = [g for g in generations if g.finish_reason == "stop"]
    assert stopped
    for generation in stopped:
        assert generation.token_ids.tolist().index(tokenizer.eos_id) == len(generation.token_ids) - 1


def test_rows_do_not_disturb_each_other(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    alone = [agent.act_many([request(c, seed=k, session=k)])[0] for k, c in enumerate(prompts(tokenizer))]
    together = agent.act_many([request(c, seed=k, session=k) for k, c in enumerate(prompts(tokenizer))])
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids)
        assert np.abs(a.logprobs - b.logprobs).max() <= 1e-5


def test_an_update_is_seen_and_drops_what_was_computed(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    """An optimizer changes the tensors in place; nothing of the old weights may reach the next ids."""
    context = tokenizer.encode("Compute 806 * 222 modulo 824.\n")
    first = agent.act_many([request(context, session=1, group=1)])[0]
    assert set(first.policy_version.tolist()) == {0}
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.mul_(1.2)
    agent.set_version(7)
    longer = context + first.token_ids.tolist() + [9]
    second = agent.act_many([request(longer, session=1, group=1)])[0]
    assert agent.policy_version == 7
    assert set(second.policy_version.tolist()) == {7}
    assert_exact(agent, longer, second)


def test_restricted_logprobs_are_those_of_the_whole_vocabulary(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    """SGLang's convention: before top-k and top-p. Greedy ids, and a log-probability below 0."""
    context = tokenizer.encode("What is 3 + 4?\n")
    one = agent.act(request(context, sampling=Sampling(top_k=1)))
    greedy = agent.act(request(context, sampling=Sampling(temperature=0.0)))
    assert np.array_equal(one.token_ids, greedy.token_ids)
    assert one.logprobs.max() < -0.01
    assert_exact(agent, context, one)


def test_what_cannot_be_served_is_refused(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    vocab = agent.model.config.vocab_size
    with pytest.raises(UsageError, match="vocabulary"):
        agent.act(request([1, vocab]))
    with pytest.raises(UsageError, match="vocabulary"):
        agent.act_many([request([1, -1])])
    with pytest.raises(UsageError, match="at least 1"):
        agent.act(request([]))
    with pytest.raises(UsageError, match="positions"):
        agent.act(request([1] * 10, budget=agent.model.config.max_position_embeddings - 9))


def test_broken_weights_fail_the_engine_and_not_the_next_request(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    weight = agent.model.get_input_embeddings().weight
    with torch.no_grad():
        saved = weight.clone()
        weight.fill_(float("nan"))
    with pytest.raises(EngineError, match="not finite"):
        agent.act_many([request(context)])
    with torch.no_grad():
        weight.copy_(saved)
    agent.set_version(1)
    assert_exact(agent, context, agent.act_many([request(context)])[0])


def test_a_cancelled_request_gives_what_it_has(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    never, soon = Cancel(), Cancel()
    never()
    tape = Tape(agent)

    def step(feed: Feed, forward=tape) -> torch.Tensor:
        if len(tape.steps) == 5:
            soon()
        return forward(feed)

    agent._batch._forward = step
    batch = [request(context, session=1, cancel=never), request(context, session=2, cancel=soon, seed=4)]
    before, partial, whole = agent.act_many([*batch, request(context, session=3, seed=4)])
    assert (before.finish_reason, len(before.token_ids)) == ("abort", 0)
    assert partial.finish_reason == "abort"
    assert 0 < len(partial.token_ids) < 20
    assert partial.token_ids.tolist() == whole.token_ids[: len(partial.token_ids)].tolist()
    assert_exact(agent, context, partial)


class Interrupted(Exception):
    """Raised by a model that fails."""


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), Interrupted()])
def test_a_failing_model_fails_its_requests(agent: EmbeddedAgent, tokenizer: Tokenizer, error: Exception) -> None:
    forward = agent._batch._forward

    def fail(feed: Feed) -> torch.Tensor:
        raise error

    agent._batch._forward = fail
    with pytest.raises(EngineError if isinstance(error, RuntimeError) else Interrupted):
        agent.act_many([request(prompts(tokenizer)[0])])
    agent._batch._forward = forward
    assert len(agent.act_many([request(prompts(tokenizer)[0])])[0].token_ids) == 20


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_schedule_gives_the_model_s_own_numbers(tiny_folder: Path, data: st.DataObject) -> None:
    """Random contexts, groups, sessions, budgets, limits and updates, several turns: every log-probability is exact."""
    max_rows, cache = data.draw(st.sampled_from([1, 3, 64])), data.draw(st.sampled_from([0, 60, 10_000]))
    tokenizer = load_tokenizer(str(tiny_folder))
    agent = EmbeddedAgent(load_model(str(tiny_folder)), tokenizer, max_rows=max_rows, cache_tokens=cache)
    draw_ids = st.lists(st.integers(8, tokenizer.vocab_size - 1), min_size=1, max_size=150)
    heads = [data.draw(draw_ids), data.draw(draw_ids)]
    contexts = [heads[data.draw(st.integers(0, 1))] + data.draw(draw_ids) for _ in range(data.draw(st.integers(1, 6)))]
    for turn in range(data.draw(st.integers(1, 3))):
        batch = [
            request(c, seed=turn * 10 + k, session=k % 5, group=k % 3, budget=data.draw(st.integers(1, 40)))
            for k, c in enumerate(contexts)
        ]
        generations = agent.act_many(batch)
        assert isinstance(agent._batch, Batch) and not agent._batch.rows
        for context, generation in zip(contexts, generations, strict=True):
            assert_exact(agent, context, generation)
        extra = data.draw(draw_ids)
        contexts = [c + g.token_ids.tolist() + extra for c, g in zip(contexts, generations, strict=True)]
        if data.draw(st.booleans()):
            agent.set_version(turn + 1)
