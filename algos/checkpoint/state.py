"""The tensors of a checkpoint, under names that do not depend on how many ranks there are.

===============================  ====================================================================================
``policy/NAME``                  trainable weights: with adapters only these
``critic/NAME``                  weights of the critic that are not the policy's: its head, or a whole model
``reference/NAME``               the reference, when it is refreshed; otherwise it is made from ``model.path`` again
``optimizer/WHOSE/WEIGHT/KEY``   what an optimizer holds about a weight; nothing before its first step
``random/RANK``                  the random states of a rank
===============================  ====================================================================================

torch's own ``get_optimizer_state_dict`` is not used: where an optimizer has no state yet it takes a step with zero
gradients to make some, so that saving would change what is trained afterwards. Options of optimizers are not stored:
they are the configuration's, and the learning rate follows from the step.

Random states go to the rank that had them; ranks that were not there before keep theirs.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from algos.actor_critic import Trained
from algos.policy.world import World

__all__ = ["differences", "restore", "template", "tensors"]

OPTIMIZER = "optimizer"
RANDOM = "random"


def tensors(parts: Trained, world: World, *, reference: bool) -> dict[str, Tensor]:
    """Everything there is to save, sharing memory with ``parts``.

    Args:
        reference: whether it changes.
    """
    held = {RANDOM + f"/{world.rank}": _random_state(world.device)}
    held |= {name: weight.detach() for name, weight in _weights(parts, reference=reference).items()}
    for whose, optimizer in parts.optimizers.items():
        for name, weight in _weights(parts).items():
            for key, value in optimizer.state.get(weight, {}).items():
                held[f"{OPTIMIZER}/{whose}/{name}/{key}"] = value
    return held


def differences(parts: Trained, stored: Metadata, *, reference: bool) -> list[str]:
    """Names of weights that only one side has, or that have another shape there."""
    own = {name: weight.shape for name, weight in _weights(parts, reference=reference).items()}
    there = {
        name: entry.size
        for name, entry in stored.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and name.partition("/")[0] not in (OPTIMIZER, RANDOM)
    }
    return sorted(name for name in own.keys() | there.keys() if own.get(name) != there.get(name))


def template(parts: Trained, stored: Metadata, world: World, *, reference: bool) -> dict[str, Tensor]:
    """Where a checkpoint is to be read to: weights to their places, the rest to new tensors for :func:`restore`."""
    weights = _weights(parts, reference=reference)
    out = {name: weight.detach() for name, weight in weights.items()}
    for name, entry in stored.state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), f"{name} is no tensor"
        kind, _, rest = name.partition("/")
        if name == f"{RANDOM}/{world.rank}":
            out[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
        elif kind == OPTIMIZER:
            weight = weights[rest.partition("/")[2].rpartition("/")[0]]
            alike = entry.size == weight.shape  # moments lie where their weight does; counters on the CPU
            empty = torch.empty_like(weight.detach()) if alike else torch.empty(entry.size)
            out[name] = empty.to(entry.properties.dtype)
    return out


def restore(parts: Trained, held: Mapping[str, Tensor], world: World) -> None:
    """Take what was read into a :func:`template`."""
    weights = _weights(parts)
    for whose, optimizer in parts.optimizers.items():
        optimizer.state.clear()
        for name, value in held.items():
            prefix = f"{OPTIMIZER}/{whose}/"
            if name.startswith(prefix):
                weight, _, key = name.removeprefix(prefix).rpartition("/")
                optimizer.state[weights[weight]][key] = value
    state = held.get(f"{RANDOM}/{world.rank}")
    if state is not None:
        _set_random_state(state, world.device)


def _weights(parts: Trained, *, reference: bool = False) -> dict[str, nn.Parameter]:
    out = {f"policy/{name}": p for name, p in parts.model.named_parameters() if p.requires_grad}
    if parts.critic is not None:
        policy = {id(p) for p in parts.model.parameters()}
        own = parts.critic.critic.named_parameters()
        out |= {f"critic/{name}": p for name, p in own if p.requires_grad and id(p) not in policy}
    if reference and parts.reference is not None:
        out |= {f"reference/{name}": p for name, p in parts.reference.scorer.model.named_parameters()}
    return out


def _random_state(device: torch.device) -> Tensor:
    """Of Python, numpy, torch and this rank's GPU, as bytes."""
    kind, keys, *rest = np.random.get_state()
    held: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        held["cuda"] = torch.cuda.get_rng_state(device)
    buffer = io.BytesIO()
    torch.save(held, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _set_random_state(state: Tensor, device: torch.device) -> None:
    held = torch.load(io.BytesIO(state.numpy().tobytes()), weights_only=True)
    random.setstate(held["python"])
    kind, keys, *rest = held["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(held["torch"])
    if device.type == "cuda" and "cuda" in held:
        torch.cuda.set_rng_state(held["cuda"], device)
