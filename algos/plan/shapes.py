"""A model without weights: its shape from ``config.json``, its tensors on torch's meta device.

Where ``model.path`` is no folder yet, the last part of its name is looked up among a few models whose ``config.json``
is known here, so that a plan can be made before anything is downloaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2Config

from agents.loading import load_config
from algos.policy.adapters import with_adapters
from algos.policy.config import LoraConfig
from algos.policy.parts import causal_lm, decoder_layers
from retool_env.errors import UsageError, did_you_mean

__all__ = ["KNOWN", "Shape", "Weights", "model_config", "weights_of"]


def _qwen2(hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocab: int, positions: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=mlp,
        vocab_size=vocab,
        max_position_embeddings=positions,
        tie_word_embeddings=hidden < 3584,
    )


KNOWN: Final = {
    "Qwen2.5-0.5B-Instruct": _qwen2(896, 24, 14, 2, 4864, 151936, 32768),
    "Qwen2.5-1.5B-Instruct": _qwen2(1536, 28, 12, 2, 8960, 151936, 32768),
    "Qwen2.5-Math-1.5B": _qwen2(1536, 28, 12, 2, 8960, 151936, 4096),
    "Qwen2.5-7B-Instruct": _qwen2(3584, 28, 28, 4, 18944, 152064, 32768),
    "Qwen2.5-32B-Instruct": _qwen2(5120, 64, 40, 8, 27648, 152064, 32768),
}
"""As the ``config.json`` of the published folders has them."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a decoder with attention and a gated MLP; ``query`` and ``key`` are widths of all heads together."""

    hidden: int
    layers: int
    heads: int
    query: int
    key: int
    intermediate: int
    vocab: int

    @staticmethod
    def of(config: PreTrainedConfig) -> Shape:
        """Raises :class:`UsageError`: a model of another kind, e.g. with experts."""
        text = config.get_text_config()
        try:
            heads = int(text.num_attention_heads)
            size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
            return Shape(
                hidden=int(text.hidden_size),
                layers=int(text.num_hidden_layers),
                heads=heads,
                query=heads * size,
                key=int(getattr(text, "num_key_value_heads", None) or heads) * size,
                intermediate=int(text.intermediate_size),
                vocab=int(text.vocab_size),
            )
        except (AttributeError, TypeError) as error:
            raise UsageError(f"no plan for a model of type {config.model_type!r}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    shape: tuple[int, ...]
    trainable: bool
    layer: int | None
    """Number of the decoder layer it belongs to; ``None`` for embeddings, last norm and head."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def shard(self, ranks: int) -> int:
        """Elements on the rank with most: FSDP2 cuts the first dimension as ``torch.chunk`` does."""
        rows = self.shape[0] if self.shape else 1
        return math.ceil(rows / ranks) * (self.size // max(rows, 1))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The parameters of a model, tied ones once. All numbers are elements, not bytes.

    Attributes:
        tensors: of the model.
        head_trained: whether the LM head is.
    """

    tensors: tuple[_Tensor, ...]
    head_trained: bool

    @property
    def total(self) -> int:
        return sum(t.size for t in self.tensors)

    @property
    def trained(self) -> int:
        return sum(t.size for t in self.tensors if t.trainable)

    def shard(self, ranks: int, *, trained: bool = False) -> int:
        """On the rank with most of them."""
        return sum(t.shard(ranks) for t in self.tensors if t.trainable or not trained)

    def layer(self, *, trained: bool = False) -> int:
        """Of the largest decoder layer."""
        sizes: dict[int, int] = {}
        for t in self.tensors:
            if t.layer is not None and (t.trainable or not trained):
                sizes[t.layer] = sizes.get(t.layer, 0) + t.size
        return max(sizes.values(), default=0)

    def rest(self, *, trained: bool = False) -> int:
        """Of what belongs to no layer: FSDP2's root unit."""
        return sum(t.size for t in self.tensors if t.layer is None and (t.trainable or not trained))


def model_config(path: str | None) -> PreTrainedConfig:
    """Of a folder, or of a model that is known by name.

    Raises:
        UsageError: neither.
    """
    if path is None:
        raise UsageError(
            "model.path is not set; give a model folder, or the name of a known model: " + ", ".join(KNOWN)
        )
    if Path(path).exists():
        return load_config(path)
    name = Path(path).name
    if name not in KNOWN:
        raise UsageError(
            f"model.path={path!r}: no such folder, and {name!r} is none of the models known by name"
            f"{did_you_mean(name, KNOWN) or ': ' + ', '.join(KNOWN)}"
        )
    return KNOWN[name]


@functools.lru_cache(maxsize=8)
def weights_of(path: str, lora: LoraConfig | None, *, critic: bool = False) -> Weights:
    """The tensors of the policy, or of a critic with a backbone of its own."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(model_config(path), dtype=torch.float32)
    if lora is not None:
        model = with_adapters(causal_lm(model), lora)
    head = causal_lm(model).get_output_embeddings().weight
    if not critic:
        return _weights(model.parameters(), decoder_layers(model), head_trained=head.requires_grad)
    own = nn.Linear(head.shape[1], 1, device="meta")
    parameters = [*causal_lm(model).base_model.parameters(), *own.parameters()]
    return _weights(parameters, decoder_layers(model), head_trained=False)


def _weights(parameters: Iterable[nn.Parameter], layers: list[nn.Module], *, head_trained: bool) -> Weights:
    layer_of = {id(p): number for number, layer in enumerate(layers) for p in layer.parameters()}
    tensors = [_Tensor(shape=tuple(p.shape), trainable=p.requires_grad, layer=layer_of.get(id(p))) for p in parameters]
    return Weights(tensors=tuple(tensors), head_trained=head_trained)
