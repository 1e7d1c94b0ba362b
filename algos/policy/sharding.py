"""A model's weights over ranks (FSDP2), and how code that uses them in its own way gets at them.

Every decoder layer is a unit of its own, the rest (embeddings, last norm, head) another one. A unit's weights are
gathered, cast to the compute dtype, right before it runs, and gradients are averaged over ranks in float32.

FSDP2 knows only of a module's ``forward``. A scorer runs the backbone and then multiplies with the head itself, so it
does this :func:`inside` of the model: there the weights that belong to no layer are whole.

Weights that a forward pass without gradients gathered are given up right behind it: nobody must find a copy in the
compute dtype where the float32 shards should be, and no copy outlives an optimizer step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from algos.policy.config import ParallelConfig

__all__ = ["compute_device", "fill_shards", "inside", "shard"]

P = ParamSpec("P")
R = TypeVar("R")
METHOD = "run_inside"


def shard(
    model: nn.Module,
    layers: list[nn.Module],
    mesh: DeviceMesh,
    options: ParallelConfig,
    *,
    compute_dtype: torch.dtype | None,
) -> None:
    """Shard in place.

    Args:
        layers: units of their own.
        mesh: of one dimension.
        compute_dtype: ``None`` for that of the weights.
    """
    # Without casts of inputs: between blocks they have the right type already, and rotary tables must not be rounded.
    reduce_dtype = None if compute_dtype is None else torch.float32
    precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=reduce_dtype, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if options.offload else OffloadPolicy()
    settings: dict[str, Any] = {"mesh": mesh, "mp_policy": precision, "offload_policy": offload}
    for layer in layers:
        fully_shard(layer, reshard_after_forward=options.reshard, **settings)
    fully_shard(model, **settings)
    setattr(model, METHOD, _run)
    register_fsdp_forward_method(model, METHOD)
    model.register_forward_hook(_give_up)


def inside(model: nn.Module, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(*args, **kwargs)`` with the weights of the model at hand, sharded or not."""
    if not isinstance(model, FSDPModule):
        return function(*args, **kwargs)
    out: R = getattr(model, METHOD)(function, *args, **kwargs)
    _give_up(model)
    return out


def compute_device(module: nn.Module) -> torch.device:
    """Where inputs of the module belong; with offloaded weights not where these are."""
    parameter = next(module.parameters())
    return _device_of(parameter.device_mesh) if isinstance(parameter, DTensor) else parameter.device


@torch.no_grad()
def fill_shards(model: nn.Module, whole: nn.Module | None, mesh: DeviceMesh, *, offload: bool = False) -> None:
    """Give every rank its part of the weights, and all buffers.

    Args:
        model: sharded; on the meta device so far, or filled anew.
        whole: on rank 0 the same model with all its weights, of any device; ``None`` on the others.
        offload: keep the parts in the memory of the CPU.
    """
    device = _device_of(mesh)
    if next(model.parameters()).is_meta:
        model.to_empty(device=torch.device("cpu") if offload else device)
    held = dict(whole.named_parameters()) if whole is not None else {}
    for name, parameter in model.named_parameters():
        own = cast(DTensor, parameter)
        full = held[name].detach() if whole is not None else torch.empty(own.shape, dtype=own.dtype)
        own.to_local().copy_(distribute_tensor(full.to(device), mesh, own.placements).to_local())
    held_buffers = dict(whole.named_buffers()) if whole is not None else {}
    for module_name, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            full = held_buffers[f"{module_name}.{name}".lstrip(".")] if whole is not None else buffer
            full = full.to(device, buffer.dtype, copy=True)  # offloaded or not, layers look for them where they compute
            dist.broadcast(full, src=0)
            setattr(module, name, full)


def _device_of(mesh: DeviceMesh) -> torch.device:
    if mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(mesh.device_type)


def _run(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    return function(*args, **kwargs)


def _give_up(model: nn.Module, *_: object) -> None:
    """Free gathered weights where no backward pass will."""
    if torch.is_grad_enabled():
        return
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
