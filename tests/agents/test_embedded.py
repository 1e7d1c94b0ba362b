"""The embedded engine: exact log-probabilities, the cache across turns, stops, budgets, determinism."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.base import Request, Sampling
from agents.embedded import EmbeddedAgent, _restrict
from agents.loading import load_model
from retool_env.tokenizer import Tokenizer, load_tokenizer

STOP = ("</code>",)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(str(tiny_folder))


@pytest.fixture
def agent(tiny_folder: Path, tokenizer: Tokenizer) -> EmbeddedAgent:
    return EmbeddedAgent(load_model(str(tiny_folder)), tokenizer)


def request(ids: list[int], **settings) -> Request:
    return Request(token_ids=np.array(ids, dtype=np.int64), **{"budget": 20, "seed": 3, **settings})


def teacher_forced(agent: EmbeddedAgent, context: list[int], sampled: list[int], temperature: float = 1.0):
    """The oracle: one plain forward of the whole sequence in float64."""
    model = load_model(agent.model.name_or_path).double()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context + sampled])).logits[0].double() / temperature
    logprobs = logits.log_softmax(-1)
    return [float(logprobs[len(context) + k - 1, token]) for k, token in enumerate(sampled)]


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    texts = ["What is 3 + 4?\n", "Compute 806 * 222 modulo 824.\n", "x", "Find the gcd of 120 and 84.\n" * 3]
    return [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.6), Sampling(temperature=0.0)])
def test_logprobs_are_those_of_the_model(agent: EmbeddedAgent, tokenizer: Tokenizer, sampling: Sampling) -> None:
    contexts = prompts(tokenizer)
    generations = agent.act_many([request(c, seed=k, session=k, sampling=sampling) for k, c in enumerate(contexts)])
    for context, generation in zip(contexts, generations, strict=True):
        oracle = teacher_forced(agent, context, generation.token_ids.tolist(), sampling.temperature or 1.0)
        assert np.abs(generation.logprobs - oracle).max() <= 1e-4


def test_the_cache_changes_nothing_across_turns(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    """Two turns with rows of different length and history; the second uses what the first left."""
    contexts = prompts(tokenizer)
    close, output = tokenizer.encode("</code>"), tokenizer.encode("\n<interpreter>\n42\n</interpreter>\n")
    first = agent.act_many([request(c, seed=k, session=k, budget=7) for k, c in enumerate(contexts)])
    longer = [c + g.token_ids.tolist() + close + output for c, g in zip(contexts, first, strict=True)]
    for k, context in enumerate(longer):  # as if the turn had ended in a call: the session stays
        ids = np.array(context[: len(contexts[k]) + 6], dtype=np.int64)
        agent._sessions[k] = _session(agent, ids)
    assert len(agent._sessions) == len(contexts)
    second = agent.act_many([request(c, seed=10 + k, session=k) for k, c in enumerate(longer)])
    for context, generation in zip(longer, second, strict=True):
        oracle = teacher_forced(agent, context, generation.token_ids.tolist())
        assert np.abs(generation.logprobs - oracle).max() <= 1e-4


def _session(agent: EmbeddedAgent, ids: np.ndarray):
    from agents.kv_cache import gather_rows, split_rows

    buffer = gather_rows([None], agent.model, room=len(ids), device=torch.device("cpu"))
    with torch.inference_mode():
        agent._forward(torch.from_numpy(ids)[None], buffer)
    return split_rows(buffer, 0, ids)


def test_a_session_that_does_not_fit_is_not_used(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    agent._sessions[5] = _session(agent, np.array(tokenizer.encode("What is 9"), dtype=np.int64))
    got = agent.act(request(context, session=5))
    assert np.abs(got.logprobs - teacher_forced(agent, context, got.token_ids.tolist())).max() <= 1e-4


def test_same_seed_same_ids_and_bits(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    batch = [request(c, seed=k, session=k) for k, c in enumerate(prompts(tokenizer))]
    one, two = agent.act_many(batch), agent.act_many(batch)
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids)
        assert np.array_equal(a.logprobs, b.logprobs)
    other = agent.act(request(prompts(tokenizer)[0], seed=99))
    assert not np.array_equal(other.token_ids, one[0].token_ids)


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


@pytest.mark.parametrize("spelling", ["</code>", "<", "</co"])
def test_a_stop_string_ends_the_turn_however_it_is_spelled(agent: EmbeddedAgent, spelling: str) -> None:
    tokenizer = agent.tokenizer
    ids = tokenizer.encode("print(1)") + tokenizer.encode(spelling)
    rest = "</code>"[len(spelling) :]
    hit = [agent._stops.hit(ids[: k + 1], STOP) for k in range(len(ids))]
    if rest:
        assert not any(hit)
        spelled = ids + [i for char in rest for i in tokenizer.encode(char)]
        assert agent._stops.hit(spelled, STOP)
    else:
        assert hit == [False] * (len(ids) - 1) + [True]


def test_budget_and_finish_reasons(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    cut = agent.act(request(context, budget=3))
    assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
    frequent = int(agent.act(request(context, sampling=Sampling(temperature=0.0))).token_ids[1])
    stop = (tokenizer.decode([frequent]),)
    stopped = agent.act(request(context, sampling=Sampling(temperature=0.0), stop=stop))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids.tolist().count(frequent) == 1


def test_rows_do_not_disturb_each_other(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    alone = [agent.act(request(c, seed=k)) for k, c in enumerate(prompts(tokenizer))]
    together = agent.act_many([request(c, seed=k, session=k) for k, c in enumerate(prompts(tokenizer))])
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.token_ids, b.token_ids)
        assert np.abs(a.logprobs - b.logprobs).max() <= 1e-5


def test_version_is_stamped_and_drops_caches(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    context = tokenizer.encode("What is 3 + 4?\n")
    agent._sessions[0] = _session(agent, np.array(context, dtype=np.int64))
    agent.set_version(7)
    assert not agent._sessions
    assert set(agent.act(request(context)).policy_version.tolist()) == {7}


def test_top_k_and_top_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert _restrict(logits, Sampling(top_k=2)).isfinite().tolist() == [[True, True, False, False]]
    assert _restrict(logits, Sampling(top_p=0.79)).isfinite().tolist() == [[True, True, False, False]]
    assert _restrict(logits, Sampling(top_p=0.81)).isfinite().tolist() == [[True, True, True, False]]
    assert _restrict(logits, Sampling(top_p=0.01)).isfinite().tolist() == [[True, False, False, False]]


def test_restricted_logprobs_are_renormalised(agent: EmbeddedAgent, tokenizer: Tokenizer) -> None:
    one = agent.act(request(tokenizer.encode("What is 3 + 4?\n"), sampling=Sampling(top_k=1)))
    assert np.abs(one.logprobs).max() == 0.0
