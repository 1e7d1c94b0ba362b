"""Run a function on several ranks of one gloo group, in processes of their own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(function: Callable[..., None], num_ranks: int, *arguments: Any) -> None:
    """``function(rank, *arguments)`` on every rank; what one of them raises is raised here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(_on_rank, args=(num_ranks, port, function, arguments), nprocs=num_ranks)


def _on_rank(rank: int, num_ranks: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=num_ranks)
    try:
        function(rank, *arguments)
    finally:
        dist.destroy_process_group()
