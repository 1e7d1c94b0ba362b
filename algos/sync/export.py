"""A model's weights as a plain checkpoint would hold them, one tensor at a time.

Whatever the trainer did to the model is undone on the way: shards are gathered, LoRA is merged into a copy, names are
those of Hugging Face, tied weights come once. One tensor is whole at a time, so a sharded model never has to fit into
the memory of one rank.

Gathering is a collective operation: every rank must go through the whole iteration, also one that keeps nothing.

Not handled: adapters other than LoRA on linear layers (DoRA, embeddings, convolutions, quantised bases); such a model
is refused before the first tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from retool_env.errors import UsageError

__all__ = ["load_weights", "named_weights", "without_adapters"]

BASE = ".base_layer"


def named_weights(model: nn.Module, *, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and detached full tensor of every parameter and persistent buffer, on the model's device.

    A tensor may share memory with the model: use it before the next optimizer step, and do not write to it.

    Args:
        dtype: cast floating-point tensors to this.

    Raises:
        UsageError: an adapter that cannot be merged.
    """
    inner, adapters = without_adapters(model)
    stored = inner.state_dict(keep_vars=True).keys()
    buffers = [(name, buffer) for name, buffer in inner.named_buffers() if name in stored]
    for name, held in [*inner.named_parameters(), *buffers]:
        if ".lora_" in name or ".original_module." in name:
            continue
        with torch.no_grad():
            tensor = _full(held)
            module = name.rpartition(BASE)[0]
            if module in adapters and name == f"{module}{BASE}.weight":
                tensor = _merged(tensor, adapters[module])
            if dtype is not None and tensor.is_floating_point():
                tensor = tensor.to(dtype)
        yield _plain_name(name), tensor


@torch.no_grad()
def load_weights(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write what :func:`named_weights` gave into a plain model, tensor by tensor, cast to its own type and device.

    It goes through all of ``weights`` in any case. Every parameter must be among them.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    missing = {name for name, _ in model.named_parameters()}
    for name, tensor in weights:
        own[name].copy_(tensor)
        missing.discard(name)
    assert not missing, f"there were no weights for {sorted(missing)[:3]}"


def _full(held: Tensor) -> Tensor:
    detached = held.detach()
    return detached.full_tensor() if isinstance(detached, DTensor) else detached


def _plain_name(name: str) -> str:
    """The name without what peft put into it."""
    before, wrapped, after = name.partition(".modules_to_save.")
    if wrapped:
        name = f"{before}.{after.partition('.')[2]}"
    return name.replace(f"{BASE}.", ".")


def without_adapters(model: nn.Module) -> tuple[nn.Module, dict[str, nn.Module]]:
    """The wrapped model, and its LoRA layers by name."""
    if not hasattr(model, "peft_config"):
        return model, {}
    from peft.tuners.lora import Linear, LoraLayer

    inner = cast(nn.Module, cast(nn.Module, model.base_model).model)
    layers: dict[str, nn.Module] = {}
    for name, layer in inner.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if not isinstance(layer, Linear) or any(layer.use_dora.values()) or any(layer.lora_bias.values()):
            raise UsageError(
                f"the adapter of {name!r} ({type(layer).__name__}) cannot be merged: only plain LoRA on linear layers "
                "can; leave the layer out of the target modules"
            )
        layers[name] = layer
    return inner, layers


def _merged(weight: Tensor, layer: Any) -> Tensor:
    """``weight`` ``[out, in]`` plus the low-rank products of the layer's active adapters, in float32 on the way."""
    total = weight.float()
    for adapter in layer.active_adapters:
        down, up = _full(layer.lora_A[adapter].weight), _full(layer.lora_B[adapter].weight)  # [r, in], [out, r]
        delta = (up.float() @ down.float()) * layer.scaling[adapter]
        total = total + (delta.T if layer.fan_in_fan_out else delta)
    return total.to(weight.dtype)
