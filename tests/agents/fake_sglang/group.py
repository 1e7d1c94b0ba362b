"""The fake's end of a weight broadcast, joined the way SGLang joins: a rendezvous by address, a store with a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Receiver:
    """Process groups by name; this server is one rank in each."""

    def __init__(self) -> None:
        self._groups: dict[str, Any] = {}

    def join(self, body: dict[str, Any]) -> None:
        import torch.distributed as dist
        from torch.distributed import distributed_c10d as c10d

        url = f"tcp://{body['master_address']}:{body['master_port']}"
        store, rank, world = next(dist.rendezvous(url, body["rank_offset"], body["world_size"]))
        name = body["group_name"]
        prefixed = dist.PrefixStore(name, store)
        group, _ = c10d._new_process_group_helper(
            world, rank, [], dist.Backend(body["backend"]), prefixed, group_name=name, timeout=c10d.default_pg_timeout
        )
        c10d._world.pg_group_ranks[group] = {member: member for member in range(world)}
        self._groups[name] = group

    def leave(self, name: str) -> None:
        import torch.distributed as dist

        dist.destroy_process_group(self._groups.pop(name))

    def receive(self, body: dict[str, Any]) -> Sequence[tuple[str, object]]:
        import torch
        import torch.distributed as dist

        rows = zip(body["names"], body["dtypes"], body["shapes"], strict=True)
        tensors = []
        for name, dtype, shape in rows:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            dist.broadcast(tensor, group_src=0, group=self._groups[body["group_name"]])
            tensors.append((name, tensor))
        return tensors
