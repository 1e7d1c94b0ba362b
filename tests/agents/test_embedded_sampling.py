"""Drawing and stop strings, beside float64 and plain search."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.base import Sampling
from agents.embedded.sampling import restrict, sample, triangle_sum
from agents.embedded.stops import StopTable
from retool_env.tokenizer import ByteTokenizer


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """On a busy machine two OpenMP threads wait for each other at every small operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_one(logits: np.ndarray, uniform: float, sampling: Sampling) -> tuple[int, float]:
    uniforms = torch.tensor([uniform], dtype=torch.float64)
    ids, logprobs = sample(torch.tensor(logits[None], dtype=torch.float32), uniforms, [sampling])
    return int(ids[0]), float(logprobs[0])


@settings(max_examples=200, deadline=None)
@given(
    vocab=st.sampled_from([1, 2, 7, 127, 128, 129, 512, 1444, 5000]),
    spread=st.sampled_from([0.0, 1.0, 8.0, 40.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    uniform=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, math.nextafter(1, 0)])),
    seed=st.integers(0, 2**31),
)
def test_a_draw_inverts_the_cumulative_distribution(
    vocab: int, spread: float, temperature: float, uniform: float, seed: int
) -> None:
    """The drawn id's interval holds the uniform number, up to float32 rounding of the probabilities."""
    logits = (np.random.default_rng(seed).normal(size=vocab) * spread).astype(np.float32)
    token, logprob = draw_one(logits, uniform, Sampling(temperature=temperature))
    scaled = logits.astype(np.float64) / temperature
    exact = scaled - np.logaddexp.reduce(scaled)
    if exact[token] > -80:  # below, float32 probabilities are subnormal; only a uniform number near 0 comes there
        assert abs(logprob - exact[token]) <= 1e-4
    upper = np.cumsum(np.exp(exact))
    assert upper[token] - math.exp(exact[token]) - 1e-5 <= uniform <= upper[token] + 1e-5
    assert exact[token] > -104  # never an id whose float32 probability is 0


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=1e-6)])
def test_three_ways_to_be_greedy(sampling: Sampling) -> None:
    logits = np.random.default_rng(0).normal(size=700)
    token, logprob = draw_one(logits, 0.999, sampling)
    assert token == logits.argmax()
    assert abs(logprob - (logits.max() - np.logaddexp.reduce(logits))) <= 1e-5


def test_temperature_zero_is_scored_at_temperature_one() -> None:
    logits = np.array([1.0, 3.0, 2.0])
    assert abs(draw_one(logits, 0.5, Sampling(temperature=0))[1] - (3 - np.logaddexp.reduce(logits))) <= 1e-6


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocab=st.sampled_from([10, 300, 3000]),
    evenness=st.sampled_from([0.01, 1.0, 100.0]),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.01, 1),
)
def test_restriction_beside_float64(seed: int, vocab: int, evenness: float, top_k: int, top_p: float) -> None:
    probabilities = np.random.default_rng(seed).dirichlet(np.full(vocab, evenness)).astype(np.float32)
    order = np.argsort(-probabilities)
    kept = order[: top_k or vocab]
    kept = kept[probabilities[kept] > 0]
    mass = np.cumsum(probabilities[kept].astype(np.float64))
    before = (mass - probabilities[kept]) / mass[-1]
    kept = kept[before < top_p] if top_p < 1 else kept
    got = restrict(torch.from_numpy(probabilities)[None], Sampling(top_k=top_k, top_p=top_p))[0].numpy()
    assert set(got.nonzero()[0]) == set(kept.tolist())
    assert np.array_equal(got[kept], probabilities[kept])


def test_draws_stay_inside_the_restriction_and_follow_it() -> None:
    """Frequencies of 20,000 restricted draws against the renormalised distribution."""
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 2
    sampling = Sampling(temperature=0.9, top_k=12, top_p=0.8)
    num = 20_000
    uniforms = torch.rand(num, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids, _ = sample(logits.repeat(num, 1), uniforms, [sampling] * num)
    kept = restrict((logits[None] / 0.9).softmax(-1), sampling)[0].double()
    expected = (kept / kept.sum()).numpy() * num
    counts = np.bincount(ids.numpy(), minlength=300)
    inside = expected > 0
    assert counts[~inside].sum() == 0
    statistic = ((counts - expected)[inside] ** 2 / expected[inside]).sum()
    assert statistic < 35  # beyond the 0.999 quantile of at most 11 degrees of freedom


def test_a_running_sum_as_a_product() -> None:
    values = torch.rand(5, 130, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(triangle_sum(values), values.cumsum(-1))


STOPS = [("</code>",), ("</code>", "</answer>"), ("\n\n",), ("über",), ("…",), ("x",), ()]


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="<>/codeansw x\nübr…", max_size=40), stop=st.sampled_from(STOPS))
def test_stop_strings_are_found_where_a_plain_search_finds_them(text: str, stop: tuple[str, ...]) -> None:
    tokenizer = ByteTokenizer()
    table = StopTable(tokenizer, 300)
    ids = list(text.encode())  # not encode(), to which "<eos>" is one id
    hit = next((k for k in range(1, len(ids) + 1) if table.ends(ids[:k], stop)), None)
    plain = next((k for k in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:k]) for s in stop)), None)
    assert hit == plain


def test_the_end_of_turn_id_and_ids_without_text() -> None:
    table = StopTable(ByteTokenizer(), 300)
    assert table.ends([65, 256], ())
    assert table.ends([256], ("x",))
    assert not table.ends([65, 299], ("x",))
    assert table.ends([299, ord("x")], ("x",))


def test_only_ids_that_can_complete_a_stop_string_are_decoded() -> None:
    class Counting(ByteTokenizer):
        calls = 0

        def decode(self, ids) -> str:
            Counting.calls += 1
            return super().decode(ids)

    table = StopTable(Counting(), 257)
    ids = Counting().encode("print(sum(range(10)))\n" * 20 + "</code>")
    table.ends(ids[:1], ("</code>",))
    made = Counting.calls
    hits = [table.ends(ids[: k + 1], ("</code>",)) for k in range(len(ids))]
    assert hits.index(True) == len(ids) - 1
    assert Counting.calls - made == 1
