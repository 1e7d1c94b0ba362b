"""Tensors on their way into an SGLang server: as handles within one machine, as a broadcast between machines.

Handles are what ``torch.multiprocessing`` makes of a tensor: a name in shared memory on CPU, an IPC handle on CUDA.
Only they travel, so trainer and server share a machine, and the tensors must live until the server has answered. The
server unpickles them from an allow-list; nothing here depends on SGLang's own package.

The broadcast is a process group of its own, beside the trainer's: rank 0 sends, every rank of every server receives.
Both ends must build it the same way, so the private helper of torch that SGLang uses is used here too.
"""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.reduction import ForkingPickler
from typing import cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp  # importing it teaches ForkingPickler to send tensors
from torch import Tensor
from torch.distributed import distributed_c10d as c10d

__all__ = ["Named", "buckets", "device_for", "free_port", "handles", "join_group", "own_address"]

Named = tuple[str, Tensor]


def buckets(weights: Iterable[Named], size: int) -> Iterator[list[Named]]:
    """``weights`` in lists of at most ``size`` bytes; a larger tensor is a list of its own."""
    bucket: list[Named] = []
    held = 0
    for name, tensor in weights:
        nbytes = tensor.numel() * tensor.element_size()
        if bucket and held + nbytes > size:
            yield bucket
            bucket, held = [], 0
        bucket.append((name, tensor))
        held += nbytes
    if bucket:
        yield bucket


def handles(bucket: Sequence[Named]) -> str:
    """Handles of the tensors, as text for a JSON field. Keep the tensors until the server has answered."""
    if mp.get_sharing_strategy() != "file_system":
        # File descriptors are passed over a socket that only a child of ours could reach.
        mp.set_sharing_strategy("file_system")
    buffer = io.BytesIO()
    ForkingPickler(buffer, 2).dump(list(bucket))
    return base64.b64encode(buffer.getvalue()).decode()


def join_group(address: str, port: int, *, rank: int, world_size: int, name: str, backend: str) -> dist.ProcessGroup:
    """The process group ``name``, independent of the default one. Blocks until all ranks are there.

    Raises:
        RuntimeError: the others did not come in time.
    """
    timeout = timedelta(seconds=120)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, world_size, is_master=rank == 0, timeout=timeout, wait_for_workers=False
    )
    group, _ = c10d._new_process_group_helper(
        world_size,
        rank,
        [],
        dist.Backend(backend),
        c10d.PrefixStore(name, store),
        group_name=c10d.GroupName(name),
        timeout=timeout,
    )
    c10d._world.pg_group_ranks[group] = {member: member for member in range(world_size)}
    return cast(dist.ProcessGroup, group)


def device_for(backend: str, held: torch.device) -> torch.device:
    """Where a tensor has to be for a group of this backend to send it: where it is, if the backend reads there.

    NCCL reads the memory of GPUs only, and offloaded weights are in that of the CPU; they go to this process's own GPU.
    That NCCL then takes them was not tried: there was no GPU.
    """
    kinds = dist.Backend.backend_capability[backend]
    return held if held.type in kinds else torch.device(kinds[0])


def own_address(peer: str) -> str:
    """The address of this machine that ``peer`` can reach."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))  # sends nothing; it only chooses a route
        return str(probe.getsockname()[0])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
