"""The parts of a causal language model, whatever it was wrapped in, and layers that are computed again."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from retool_env.errors import UsageError

__all__ = ["causal_lm", "decoder_layers", "recompute"]


def causal_lm(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, or the one that peft put its adapters into: the one with backbone and head."""
    if isinstance(model, PreTrainedModel) or not hasattr(model, "get_base_model"):
        return cast(PreTrainedModel, model)
    return cast(PreTrainedModel, cast(Any, model).get_base_model())


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The blocks that transformers says must stay in one piece.

    Raises:
        UsageError: it says nothing of this model.
    """
    inner = causal_lm(model)
    names = set(inner._no_split_modules or ())
    layers = [module for module in inner.modules() if type(module).__name__ in names]
    if not layers:
        raise UsageError(
            f"{type(inner).__name__} does not name its layers (_no_split_modules), so it can neither be sharded nor "
            "recomputed layer by layer; run it on one process in float32, without gradient_checkpointing"
        )
    return layers


def recompute(model: nn.Module) -> None:
    """Keep only the input of every layer for the backward pass.

    Also in evaluation mode, in which the policy is trained and transformers' own switch does nothing.
    """
    for layer in decoder_layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
