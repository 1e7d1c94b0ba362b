"""The scorer: alignment, tiles, precision, what was sampled from, padding, packing and shared prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from agents.base import Request, Sampling
from agents.embedded import EmbeddedAgent
from agents.embedded.sampling import restrict
from agents.loading import load_model
from algos.batch import Sample, micro_batches, weighted
from algos.head import HeadSpec, score_tokens
from algos.isolation import check_layout, check_scorer
from algos.losses import PolicyLoss
from algos.per_token import per_token
from algos.scorer import Scorer
from retool_env.errors import UsageError
from retool_env.tokenizer import load_tokenizer
from tests.algos.loss_tools import VOCAB, gradients, make_samples, relative_error, small_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_model()


def rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (3, 12), generator=generator)
    trained = torch.rand(3, 12, generator=generator) < 0.5
    trained[:, 0] = False
    return ids, trained


def oracle(logits: torch.Tensor, targets: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy of each row, by sorting it in plain Python."""
    logprobs, entropies = [], []
    for row, target in zip((logits.detach() / sampling.temperature).double(), targets.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda k: -row[k].item())[: sampling.top_k or None]
        mass, total, inside = 0.0, sum(row[k].exp().item() for k in order), []
        for k in order:
            if mass >= sampling.top_p:
                break
            inside.append(k)
            mass += row[k].exp().item() / total
        kept = row[sorted({*inside, target})].log_softmax(0)
        logprobs.append(kept[sorted({*inside, target}).index(target)])
        entropies.append(-(kept.exp() * kept).sum())
    return torch.stack(logprobs), torch.stack(entropies)


SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(top_k=5),
    Sampling(top_p=0.7),
    Sampling(temperature=1.4, top_k=20, top_p=0.8),
    Sampling(top_k=10 * VOCAB),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_scores_are_those_of_the_full_logits(model: nn.Module, sampling: Sampling) -> None:
    ids, trained = rows()
    logprobs, entropy = Scorer(model, **sampling.model_dump(), chunk=4, vocab_chunk=7)(ids, trained)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1][trained[:, 1:]]
    expected = oracle(logits, ids[trained], sampling)
    assert torch.allclose(logprobs, expected[0], atol=1e-12)
    assert torch.allclose(entropy, expected[1], atol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_gradients_of_both_outputs_by_finite_difference(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (4, 9))
    targets = torch.randint(0, 9, (4,), generator=generator)
    for tiles in ({}, {"rows": 3, "columns": 4}, {"rows": 3, "columns": 4, "keep": 0}):
        spec = HeadSpec(**sampling.model_dump(), **tiles)
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda h, w, spec=spec: score_tokens(h, w, targets, spec), inputs)


def test_the_backward_pass_can_run_twice(model: nn.Module) -> None:
    """Nothing that the forward pass kept is changed by a backward pass."""
    ids, trained = rows()
    logprobs, entropy = Scorer(model)(ids, trained)
    parameters = list(model.parameters())
    once = torch.autograd.grad(logprobs.sum() + entropy.sum(), parameters, retain_graph=True)
    again = torch.autograd.grad(logprobs.sum() + entropy.sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_tiles_change_neither_value_nor_gradient(tied: bool) -> None:
    """With tied embeddings the head's gradient and the embedding's meet in one parameter."""
    model = small_model(tie_word_embeddings=tied)
    ids, trained = rows()
    results = []
    for chunk, vocab_chunk, keep in ((4096, 4096, 2**24), (3, 7, 2**24), (3, 7, 0)):
        model.zero_grad()
        logprobs, entropy = Scorer(model, chunk=chunk, vocab_chunk=vocab_chunk, keep=keep)(ids, trained)
        ((logprobs + 0.3 * entropy) * torch.arange(len(logprobs))).sum().backward()
        results.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    model.zero_grad()
    full = model(input_ids=ids, use_cache=False).logits[:, :-1][trained[:, 1:]].log_softmax(-1)
    expected = full.gather(-1, ids[trained][:, None])[:, 0] - 0.3 * (full.exp() * full).sum(-1)
    (expected * torch.arange(len(expected))).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    for value, grad in results:
        assert torch.allclose(value, results[0][0], atol=1e-12)
        assert relative_error(grad, gradient) <= 1e-9


class Successor(nn.Module):
    """Its logits are one-hot: behind token v comes v + 1, for certain."""

    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(VOCAB, VOCAB, bias=False)
        self.lm_head.weight.data = 1e4 * torch.eye(VOCAB).roll(1, 0)
        self.base_model = lambda input_ids, position_ids, use_cache: SimpleNamespace(
            last_hidden_state=F.one_hot(input_ids, VOCAB).float()
        )

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head


def test_the_logits_before_a_token_score_it() -> None:
    """Any other alignment gives minus ten thousand."""
    ids = torch.arange(10)[None] + 5
    trained = torch.arange(10)[None] >= 1
    assert Scorer(Successor())(ids, trained)[0].tolist() == [0.0] * 9
    assert (Scorer(Successor())(ids.flip(1), trained)[0] < -1e3).all()


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that any operation made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9)], ids=str)
def test_no_tensor_is_larger_than_a_tile_or_the_head(sampling: Sampling) -> None:
    """Forward and backward: the logits of all tokens never exist, nor those of one tile for the whole vocabulary."""
    hidden = torch.randn(512, 8, requires_grad=True)
    weight = torch.randn(2000, 8, requires_grad=True)
    spec = HeadSpec(**sampling.model_dump(), rows=64, columns=500, keep=0)
    with Largest() as largest:
        logprobs, entropy = score_tokens(hidden, weight, torch.randint(0, 2000, (512,)), spec)
        (logprobs.sum() + entropy.sum()).backward()
    assert largest.entries <= 64 * 500 + 2000, "one tile (or a few whole rows and a column of padding)"
    assert hidden.grad is not None and weight.grad is not None


def test_only_trained_positions_reach_the_head(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(hidden: torch.Tensor, *rest: object):
        seen.append(len(hidden))
        return score_tokens(hidden, *rest)

    monkeypatch.setattr("algos.scorer.score_tokens", spy)
    ids, trained = rows()
    Scorer(model)(ids, trained)
    assert seen == [int(trained.sum())] and seen[0] < trained.numel()


def test_a_bf16_model_is_scored_in_float32() -> None:
    """The products of bf16 numbers and their sums, without rounding the logits to bf16 in between."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).bfloat16()
    weight = torch.randn(500, 32, generator=generator).bfloat16()
    targets = torch.randint(0, 500, (64,), generator=generator)
    exact = (hidden.double() @ weight.double().T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    for spec in (HeadSpec(), HeadSpec(rows=7, columns=64, keep=0)):
        logprobs, _ = score_tokens(hidden, weight, targets, spec)
        assert logprobs.dtype == torch.float32
        assert (logprobs - exact).abs().max() < 1e-4
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(score_tokens(hidden, weight, targets, spec)[0], logprobs)
    rounded = F.linear(hidden, weight).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert (rounded - exact).abs().max() > 1e-2


def test_the_heads_gradient_is_summed_in_float32() -> None:
    """Many tiles add up: rounded to bf16 after each, the sum would stop growing."""
    weight = torch.zeros(4, 1, dtype=torch.bfloat16, requires_grad=True)
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    logprobs, _ = score_tokens(hidden, weight, torch.zeros(1024, dtype=torch.long), HeadSpec(rows=1, keep=0))
    logprobs.sum().backward()
    assert weight.grad.flatten().tolist() == pytest.approx([0.75 * 1024, *[-0.25 * 1024] * 3])


def test_what_ties_with_the_last_inside_is_inside() -> None:
    """As the engine has it for top-k; the equal logits are computed in different tiles."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 16, generator=generator), torch.randn(30, 16, generator=generator)
    weight[29] = weight[0]
    for row, values in zip(hidden, hidden @ weight.T, strict=True):
        above = values > values[0] + 1e-4
        top_k = int(above.sum()) + 1  # the last inside is one of the two
        logprobs, _ = score_tokens(row[None], weight, torch.tensor([0]), HeadSpec(top_k=top_k, rows=1, columns=7))
        inside = torch.cat([values[above], values[[0, 29]]])
        assert logprobs.item() == pytest.approx((values[0] - inside.logsumexp(0)).item(), abs=1e-4)


def test_a_frozen_head_still_hands_the_gradient_on() -> None:
    """As with adapters on the backbone: the hidden states get theirs, the head none."""
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(9, 3)
    targets, spec = torch.arange(5), HeadSpec(rows=2, columns=4, keep=0)
    score_tokens(hidden, weight, targets, spec)[0].sum().backward()
    frozen, hidden.grad = hidden.grad, None
    score_tokens(hidden, weight.requires_grad_(), targets, spec)[0].sum().backward()
    assert torch.equal(frozen, hidden.grad)
    weight = weight.detach()
    with Largest() as largest:
        score_tokens(hidden, weight, targets, spec)[0].sum().backward()
    assert largest.entries < weight.numel(), "nothing of the head's size was made"


def test_padding_behind_a_row_changes_nothing(model: nn.Module) -> None:
    ids, trained = rows()
    padded_ids = torch.cat([ids, torch.zeros(3, 5, dtype=torch.long)], dim=1)
    padded_trained = torch.cat([trained, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    assert torch.allclose(Scorer(model)(ids, trained)[0], Scorer(model)(padded_ids, padded_trained)[0], atol=1e-12)


def test_nothing_to_score_is_an_empty_result_that_can_be_differentiated(model: nn.Module) -> None:
    ids, trained = rows()
    logprobs, entropy = Scorer(model)(ids, torch.zeros_like(trained))
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()


def test_per_token_scores_come_back_in_order(model: nn.Module) -> None:
    samples = make_samples(7, 5)
    alone = [per_token(Scorer(model), [s], max_tokens=1)[0] for s in samples]
    for layout in ("sorted", "packed", "shared"):
        together = per_token(Scorer(model, share_prompts=layout == "shared"), samples, max_tokens=64, layout=layout)
        for one, other, sample in zip(alone, together, samples, strict=True):
            assert np.isnan(other[~sample.trained]).all()
            assert other[sample.trained] == pytest.approx(one[sample.trained], abs=1e-6)


@pytest.mark.parametrize("sampling", [SAMPLINGS[1], SAMPLINGS[4]], ids=str)
def test_the_engines_logprobs_are_the_trainers(tiny_folder: Path, sampling: Sampling) -> None:
    """Invariant 6. The engine reports the whole distribution; what it draws from is what its ``restrict`` leaves."""
    model = load_model(str(tiny_folder))
    agent = EmbeddedAgent(model, load_tokenizer(str(tiny_folder)))
    prompt = np.arange(300, 310)
    requests = [Request(token_ids=prompt, budget=30, sampling=sampling, seed=s, session=s) for s in range(2)]
    for done in agent.act_many(requests):
        ids = torch.from_numpy(np.concatenate([prompt, done.token_ids]))[None]
        trained = torch.arange(ids.shape[1])[None] >= len(prompt)
        with torch.no_grad():
            whole, _ = Scorer(model, temperature=sampling.temperature)(ids, trained)
            drawn, _ = Scorer(model, **sampling.model_dump())(ids, trained)
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        assert np.abs(whole.numpy() - done.logprobs).max() <= 1e-4
        left = restrict((logits / sampling.temperature).softmax(-1), sampling)
        expected = (left / left.sum(-1, keepdim=True)).gather(-1, ids[0, len(prompt) :, None])[:, 0].log()
        assert (drawn - expected).abs().max() <= 1e-4


def group(seed: int, *, prompt: int, num: int) -> list[Sample]:
    """Samples of one prompt, of different lengths."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, VOCAB, prompt)
    out = []
    for k in range(num):
        ids = np.concatenate([start, rng.integers(0, VOCAB, rng.integers(1, 9))])
        logprobs = np.where(np.arange(len(ids)) >= prompt, -rng.random(len(ids)), np.nan).astype(np.float32)
        trained = np.isfinite(logprobs)
        out.append(Sample(token_ids=ids, trained=trained, behaviour_logprobs=logprobs, advantage=rng.normal(), order=k))
    return out


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), prompt=st.integers(1, 9), num=st.integers(1, 5), max_tokens=st.sampled_from([1, 40, 500])
)
def test_shared_prompts_change_neither_loss_nor_gradient(
    model: nn.Module, seed: int, prompt: int, num: int, max_tokens: int
) -> None:
    samples = weighted(group(seed, prompt=prompt, num=num))
    whole = gradients(model, PolicyLoss(Scorer(model), entropy_coef=0.1), samples)
    loss = PolicyLoss(Scorer(model, share_prompts=True), entropy_coef=0.1)
    assert relative_error(gradients(model, loss, samples, max_tokens=max_tokens, layout="shared"), whole) <= 1e-6
    assert relative_error(gradients(model, loss, samples, max_tokens=max_tokens), whole) <= 1e-6


def test_a_shared_prompt_runs_once(model: nn.Module) -> None:
    """Tokens that go through the backbone: P + G * R, the last of each row left out, which predicts nothing."""
    samples = [
        replace(
            s,
            token_ids=np.append(s.token_ids[:10], [k, k, k]),
            trained=np.arange(13) >= 10,
            behaviour_logprobs=np.zeros(13, dtype=np.float32),
        )
        for k, s in enumerate(group(0, prompt=10, num=4))
    ]
    counts = []
    handle = model.model.layers[0].register_forward_hook(
        lambda module, args, output: counts.append(args[0].shape[:2].numel())
    )
    (batch,) = micro_batches(samples, max_tokens=100, layout="shared")
    Scorer(model, share_prompts=True)(batch["token_ids"], batch["trained"])
    Scorer(model)(batch["token_ids"], batch["trained"])
    handle.remove()
    assert counts == [10 + 4 * 2, 4 * 13]


SHAPE = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES: dict[str, dict] = {
    "llama": {},
    "mistral": {},
    "qwen3": {"head_dim": 8},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
    "phi3": {},
    "olmo2": {},
    "glm4": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24},
    "gpt_neox": {"num_key_value_heads": 2},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.3},
}


def random_model(name: str, **more: object) -> nn.Module:
    """Of another architecture, with weights that are large enough to tell mistakes."""
    shape = {} if name == "gpt2" else SHAPE
    config = AutoConfig.for_model(name, **{**shape, "vocab_size": 60, **ARCHITECTURES.get(name, {}), **more})
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_are_scored_in_every_layout(name: str) -> None:
    model = random_model(name)
    for layout in ("sorted", "packed", "shared"):
        check_scorer(model, layout=layout)


def test_an_architecture_that_cannot_be_scored_is_refused() -> None:
    """Logits that are bent before the softmax."""
    model = random_model("gemma2", head_dim=8, final_logit_softcapping=2.0)
    with pytest.raises(UsageError, match="the head is no plain linear map"):
        check_scorer(model, layout="sorted")


@pytest.mark.parametrize("layout", ["sorted", "packed", "shared"])
def test_the_start_up_check_passes_a_sound_model(layout: str) -> None:
    check_scorer(small_model().float(), layout=layout)
    check_scorer(small_model().bfloat16(), layout=layout)


def test_the_start_up_check_finds_sequences_that_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    check_scorer(model, layout="sorted")
    with pytest.raises(UsageError, match="layout=packed: log-probabilities are off by"):
        check_scorer(model, layout="packed")


def test_the_start_up_check_finds_a_head_that_is_more_than_a_linear_map() -> None:
    model = small_model(tie_word_embeddings=False)
    model.lm_head.bias = nn.Parameter(torch.randn(VOCAB, dtype=torch.float64))
    with pytest.raises(UsageError, match="the head is no plain linear map"):
        check_scorer(model, layout="sorted")


def test_layouts_that_would_be_slow_or_impossible_are_refused() -> None:
    model = small_model()
    check_layout(model, layout="packed", max_tokens=512)
    with pytest.raises(UsageError, match="builds a mask of 4096 x 4096"):
        check_layout(model, layout="packed", max_tokens=4096)
    check_layout(model, layout="shared", max_tokens=4096)
