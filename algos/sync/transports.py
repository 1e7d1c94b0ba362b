"""Three ways of bringing weights to SGLang servers: a folder, handles within one machine, a broadcast.

All do the same thing: every server in ``servers`` gets the weights under the name ``name``, and what went wrong comes
back by server. One server's failure does not hold the others up, except in a broadcast, which needs every member: there
a server that is gone costs the others a new group, and a second attempt.

========  =====================================  =============================================
disk      any machine with a common file system  slowest; what a restarted server loads again
tensor    the trainer's own machine              handles travel, the server copies on the device
group     any machine, one network               gloo or NCCL from rank 0 of the trainer
========  =====================================  =============================================
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from agents.sglang.server import SGLangServer
from algos.sync.export import named_weights, without_adapters
from algos.sync.folder import prune, version_folder, write_weights
from algos.sync.session import Failures, on_all, send_pieces
from algos.sync.wire import Named, buckets, device_for, free_port, handles, join_group, own_address
from retool_env.errors import EngineError

__all__ = ["BroadcastTransport", "DiskTransport", "TensorTransport", "Transport"]

_log = logging.getLogger(__name__)


class Transport(Protocol):
    """Brings weights to servers."""

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        """Every server gets the weights of ``model`` as ``name``; those that did not, with the reason.

        Called on every rank of a sharded model; ``servers`` is empty on all but the first.
        """
        ...

    def restore(self, server: SGLangServer, name: str) -> None:
        """Give a server that came back the weights ``name`` that were sent last.

        Raises:
            EngineError: they cannot be had without the trainer; the next ``send`` brings it up to date.
        """
        ...

    def close(self) -> None: ...


class DiskTransport:
    """A checkpoint folder for every version, loaded by the servers, removed when nobody needs it any more.

    Args:
        root: folder that trainer and servers see under the same path.
        tokenizer: folder that the tokenizer's files are copied from.
        dtype: of the weights; ``None`` for that of the model.
        keep: versions that stay; at least the current one, which a restarted server loads.
    """

    def __init__(self, root: Path, *, tokenizer: str, dtype: torch.dtype | None = None, keep: int = 2) -> None:
        self._root, self._tokenizer, self._dtype, self._keep = root, tokenizer, dtype, max(keep, 1)

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        folder = version_folder(self._root, int(name))
        weights = named_weights(model, dtype=self._dtype)
        if not servers:
            for _ in weights:
                """Another rank writes; gathering needs all."""
            return {}
        write_weights(folder, weights, config=_config(model), tokenizer=self._tokenizer)
        _, failures = on_all(servers, lambda server: self._load(server, name))
        prune(self._root, keep=range(int(name) - self._keep + 1, int(name) + 1))
        return failures

    def restore(self, server: SGLangServer, name: str) -> None:
        self._load(server, name)

    def close(self) -> None:
        """The last versions stay: a server may still have to load them."""

    def _load(self, server: SGLangServer, name: str) -> None:
        folder = version_folder(self._root, int(name)).resolve()
        reply = server.update_from_disk(str(folder), version=name)
        _finish(server, success=reply.success, flushed=reply.flushed, message=reply.message)


class TensorTransport:
    """Handles of the trainer's own tensors, for servers on the same machine.

    Args:
        dtype: of the weights; ``None`` for that of the model.
        bucket_bytes: sent at a time; so much may exist twice.
    """

    def __init__(self, *, dtype: torch.dtype | None = None, bucket_bytes: int = 2**29) -> None:
        self._dtype, self._bucket_bytes = dtype, bucket_bytes

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        pieces = buckets(named_weights(model, dtype=self._dtype), self._bucket_bytes)
        return send_pieces(pieces, name, servers, self._send_piece)

    def restore(self, server: SGLangServer, name: str) -> None:
        raise EngineError(f"{server.url} came back without weights {name!r}; it gets the next ones")

    def close(self) -> None: ...

    def _send_piece(self, piece: list[Named], name: str, servers: Sequence[SGLangServer]) -> Failures:
        # A tensor in private memory would be copied for every server; in shared memory it is copied once.
        shared = [(n, t.contiguous() if t.is_cuda else t.clone().share_memory_()) for n, t in piece]

        def give(server: SGLangServer) -> None:
            ranks = server.server_info().tp_size
            texts = [handles(shared) for _ in range(ranks)]
            reply = server.update_from_tensors(texts, version=name, flush_cache=False)
            _finish(server, success=reply.success, flushed=True, message=reply.message)

        return on_all(servers, give)[1]


class BroadcastTransport:
    """A process group of its own with the trainer as rank 0, made at the first send and again when a member is gone.

    Offloaded weights visit the GPU one by one on their way into an NCCL group. Only gloo was run, on CPUs.

    Args:
        backend: ``nccl`` for GPUs, ``gloo`` for CPUs.
        dtype: of the weights; ``None`` for that of the model.
        address: of this machine as the servers reach it; found out when not given.
        bucket_bytes: tensors that are announced in one request.
    """

    def __init__(
        self,
        *,
        backend: str = "nccl",
        dtype: torch.dtype | None = None,
        address: str | None = None,
        bucket_bytes: int = 2**29,
    ) -> None:
        self._backend, self._dtype, self._address, self._bucket_bytes = backend, dtype, address, bucket_bytes
        self._group: dist.ProcessGroup | None = None
        self._members: tuple[SGLangServer, ...] = ()
        self._number = 0

    def send(self, model: nn.Module, name: str, servers: Sequence[SGLangServer]) -> Failures:
        failures = self._join(servers) if servers and tuple(servers) != self._members else {}
        members = [server for server in servers if server not in failures]
        pieces = buckets(named_weights(model, dtype=self._dtype), self._bucket_bytes)
        lost = send_pieces(pieces, name, members, self._send_piece)
        if lost:
            self.close()
        return failures | lost

    def restore(self, server: SGLangServer, name: str) -> None:
        self._members = ()  # its rank in the group died with it
        raise EngineError(f"{server.url} came back without weights {name!r}; it gets the next ones")

    def close(self) -> None:
        """Leave the group, and let the servers leave."""
        members, self._members = self._members, ()
        name = self._name
        if members:
            on_all(members, lambda server: server.destroy_group(name))
        self._leave()

    def _leave(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            dist.destroy_process_group(group)

    @property
    def _name(self) -> str:
        return f"retool_{self._number}"

    def _join(self, servers: Sequence[SGLangServer]) -> Failures:
        """A new group of those that answer."""
        self.close()
        self._number += 1
        sizes, failures = on_all(servers, lambda server: server.server_info().tp_size)
        if not sizes:
            return failures
        address = self._address or own_address(urlsplit(servers[0].url).hostname or "127.0.0.1")
        port, world = free_port(), 1 + sum(sizes.values())
        offsets = {server: 1 + sum(list(sizes.values())[:k]) for k, server in enumerate(sizes)}

        def enter(server: SGLangServer) -> None:
            reply = server.init_group(
                address=address,
                port=port,
                rank_offset=offsets[server],
                world_size=world,
                group=self._name,
                backend=self._backend,
            )
            _finish(server, success=reply.success, flushed=True, message=reply.message)

        with ThreadPoolExecutor(1) as pool:
            joining = pool.submit(on_all, list(sizes), enter)
            try:
                self._group = join_group(
                    address, port, rank=0, world_size=world, name=self._name, backend=self._backend
                )
            except RuntimeError as error:  # what torch raises when a member does not come
                trouble = " ".join(str(error).split())[:200]
                return failures | {
                    server: EngineError(f"{server.url}: no process group at {address}:{port} ({trouble})")
                    for server in sizes
                }
            refused = joining.result()[1]
        self._members = tuple(server for server in sizes if server not in refused)
        return failures | refused

    def _send_piece(self, piece: list[Named], name: str, servers: Sequence[SGLangServer]) -> Failures:
        names = [n for n, _ in piece]
        dtypes = [str(t.dtype).removeprefix("torch.") for _, t in piece]
        shapes = [list(t.shape) for _, t in piece]

        def receive(server: SGLangServer) -> None:
            reply = server.update_from_group(names, dtypes, shapes, group=self._name, version=name, flush_cache=False)
            _finish(server, success=reply.success, flushed=True, message=reply.message)

        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(on_all, servers, receive)
            try:
                for _, tensor in piece:
                    sent = tensor.to(device_for(self._backend, tensor.device)).contiguous()
                    dist.broadcast(sent, group=self._group, group_src=0)
            except RuntimeError as error:  # what torch raises when a member is gone
                _log.error("the broadcast of weights %s broke: %s", name, " ".join(str(error).split())[:200])
                self._leave()  # the others wait for ever in a group that nobody closes
            return receiving.result()[1]


def _finish(server: SGLangServer, *, success: bool, flushed: bool, message: str) -> None:
    if not success:
        raise EngineError(f"{server.url} did not take the weights: {message}")
    if not flushed:
        server.flush_cache()


def _config(model: nn.Module) -> PretrainedConfig:
    inner = without_adapters(model)[0]
    assert isinstance(inner, PreTrainedModel)
    config: PretrainedConfig = inner.config
    return config
