"""The two forward passes beside each model's own: families of the direct one, others through their own module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from agents.base import Request
from agents.embedded import EmbeddedAgent
from agents.embedded.direct import DirectForward, supports
from agents.embedded.generic import GenericForward
from retool_env.errors import UsageError
from retool_env.tokenizer import ByteTokenizer

SIZES = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
DIRECT = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama 3 rope": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2, one head per key": Qwen2Config(**{**SIZES, "num_key_value_heads": 6}),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}
GENERIC = {
    "gpt2": GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=512),
    "gpt-neox": GPTNeoXConfig(
        vocab_size=300, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    ),
    "gelu": Qwen2Config(**SIZES, hidden_act="gelu"),
}


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """On a busy machine two OpenMP threads wait for each other at every small operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Random weights, large enough that every part of the model matters; biases too."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def worst_gap(model: PreTrainedModel, *, device: str = "cpu") -> float:
    """Two turns of three requests of different lengths; the largest gap to the model's own float64 numbers."""
    agent = EmbeddedAgent(model.to(device), ByteTokenizer())
    rng = np.random.default_rng(0)
    contexts = [rng.integers(0, 256, size=n) for n in (3, 150, 40)]
    gap = 0.0
    for turn in range(2):
        batch = [Request(token_ids=c, budget=12, seed=k + turn, session=k, group=k) for k, c in enumerate(contexts)]
        generations = agent.act_many(batch)
        for k, (context, generation) in enumerate(zip(contexts, generations, strict=True)):
            whole = np.concatenate([context, generation.token_ids])
            with torch.no_grad():
                logits = make_double(model)(input_ids=torch.from_numpy(whole)[None]).logits[0].log_softmax(-1)
            oracle = logits[len(context) - 1 : -1].gather(-1, torch.from_numpy(generation.token_ids)[:, None])[:, 0]
            gap = max(gap, float(np.abs(generation.logprobs - oracle.numpy()).max()))
            contexts[k] = np.concatenate([whole, rng.integers(0, 256, size=5)])
    return gap


def make_double(model: PreTrainedModel) -> PreTrainedModel:
    double = AutoModelForCausalLM.from_config(model.config, dtype=torch.float64)
    double.load_state_dict(model.state_dict())
    return double.eval()


@pytest.mark.parametrize("name", DIRECT)
def test_the_direct_way_is_the_model(name: str) -> None:
    model = make(DIRECT[name])
    assert supports(model)
    assert worst_gap(model) <= 1e-4


@pytest.mark.parametrize("name", GENERIC)
def test_any_other_model_runs_through_its_own_module(name: str) -> None:
    model = make(GENERIC[name])
    assert not supports(model)
    assert worst_gap(model) <= 1e-4


@pytest.mark.parametrize("make_forward", [DirectForward, GenericForward])
def test_both_ways_agree(make_forward: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.embedded.agent.DirectForward", make_forward)
    assert worst_gap(make(DIRECT["qwen2"])) <= 1e-4


def test_a_wrapped_linear_layer_is_not_bypassed() -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.inner(x)

    model = make(DIRECT["qwen2"])
    model.model.layers[0].self_attn.q_proj = Doubled(model.model.layers[0].self_attn.q_proj)
    assert not supports(model)
    hooked = make(DIRECT["qwen2"])
    hooked.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    assert not supports(hooked)


def test_dropout_is_off_while_sampling_and_back_on_afterwards() -> None:
    model = make(GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=512, resid_pdrop=0.9))
    model.train()
    assert worst_gap(model) <= 1e-4
    assert model.training


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_bfloat16(name: str) -> None:
    """Eight bits of mantissa: close to the same weights in float64, not equal."""
    model = make({**DIRECT, **GENERIC}[name], dtype=torch.bfloat16)
    assert 1e-4 < worst_gap(model) < 0.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_cuda(name: str) -> None:
    assert worst_gap(make({**DIRECT, **GENERIC}[name]), device="cuda") <= 1e-3


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SIZES, sliding_window=64),
        Gemma3TextConfig(**SIZES, head_dim=16),
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=64, max_window_layers=1),
    ],
)
def test_sliding_windows_are_refused(config: PretrainedConfig) -> None:
    with pytest.raises(UsageError, match="sliding_attention"):
        EmbeddedAgent(make(config), ByteTokenizer())


def test_a_long_prompt_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agents.embedded.batch.STEP_IDS", 20)
    assert worst_gap(make(DIRECT["qwen2"])) <= 1e-4
    assert worst_gap(make(GENERIC["gpt2"])) <= 1e-4
