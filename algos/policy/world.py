"""The ranks of a training run, and what they tell each other besides weights.

Contract: a :class:`World` exists once per process. ``torchrun`` sets the variables that it is made from; without them
it is a single process and every exchange is free. Ranks form a grid: *data* ranks have different samples, the
*sequence* ranks of one data rank share the tokens of the same ones. Neighbouring ranks share sequences, because that
traffic is the heaviest and neighbours are on one machine.

With ``n`` ranks in all, gradients are averaged over all of them: weigh samples with ``num_ranks=world.size``
(:func:`algos.batch.weighted`) and cut a step over ``num_data_ranks`` (:func:`algos.batch.rank_batches`). Every
sequence rank computes the whole loss of its data rank, so metrics are summed over data ranks only.

Left out: replicas of shards (HSDP), tensor and pipeline parallelism.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from retool_env.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

__all__ = ["World", "check_grid", "check_heads"]

T = TypeVar("T")
PATIENCE_S = 24 * 3600.0
"""How long ranks wait for the first one, which may be playing long episodes."""
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the others. All methods that exchange something must be called by every rank.

    Attributes:
        rank: of this process.
        size: processes.
        data_rank: which share of the samples is this rank's.
        num_data_ranks: such shares.
        sequence_rank: which slice of every sequence.
        num_sequence_ranks: such slices.
        device: where this rank computes.
        mesh: of dimensions ``data`` and ``sequence``; ``None`` for a single process.
        owner: a process group is made here, and :meth:`leave` ends it.
    """

    rank: int = 0
    size: int = 1
    data_rank: int = 0
    num_data_ranks: int = 1
    sequence_rank: int = 0
    num_sequence_ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: DeviceMesh | None = None
    owner: bool = False

    @staticmethod
    def join(*, sequence_parallel: int = 1, device: str | None = None, timeout_s: float = PATIENCE_S) -> World:
        """Meet the other ranks; a process group that exists already is used.

        Args:
            sequence_parallel: ranks that share each sequence.
            device: ``cpu`` or ``cuda``; ``None`` for GPUs where there are any.
            timeout_s: seconds after which a rank that does not answer is an error.

        Raises:
            UsageError: ranks, GPUs and ``sequence_parallel`` do not fit together.
        """
        kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
        size = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
        check_grid(size, sequence_parallel)
        own = _own_device(kind, os.environ)
        owner = not dist.is_initialized()
        if size == 1:
            return World(device=own, owner=owner)
        if owner:
            dist.init_process_group(BACKENDS[kind], timeout=timedelta(seconds=timeout_s))
        shape = (size // sequence_parallel, sequence_parallel)
        rank = dist.get_rank()
        return World(
            rank=rank,
            size=size,
            data_rank=rank // sequence_parallel,
            num_data_ranks=shape[0],
            sequence_rank=rank % sequence_parallel,
            num_sequence_ranks=sequence_parallel,
            device=own,
            mesh=init_device_mesh(kind, shape, mesh_dim_names=("data", "sequence")),
            owner=owner,
        )

    @property
    def is_main(self) -> bool:
        """The rank that writes files and logs."""
        return self.rank == 0

    @property
    def sequence_group(self) -> dist.ProcessGroup | None:
        """Of the ranks that share this rank's sequences; ``None`` when it has them alone."""
        if self.mesh is None or self.num_sequence_ranks == 1:
            return None
        return self.mesh.get_group("sequence")

    def shard_mesh(self) -> DeviceMesh:
        """All ranks in one dimension, over which weights are sharded; of this process alone, if it is alone."""
        if not dist.is_initialized():
            store = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(BACKENDS[self.device.type], store=store, rank=0, world_size=1)
        return init_device_mesh(self.device.type, (self.size,), mesh_dim_names=("shards",))

    def gather(self, value: T) -> list[T]:
        """What every data rank has, on every rank, in the order of data ranks. Objects are pickled."""
        if self.mesh is None:
            return [value]
        values: list[Any] = [None] * self.num_data_ranks
        dist.all_gather_object(values, value, group=self.mesh.get_group("data"))
        return values

    def broadcast(self, value: T) -> T:
        """What sequence rank 0 of this data rank has; the other sequence ranks may pass anything."""
        group = self.sequence_group
        if group is None:
            return value
        box: list[Any] = [value if self.sequence_rank == 0 else None]
        dist.broadcast_object_list(box, src=self.rank - self.sequence_rank, group=group)
        out: T = box[0]
        return out

    def from_main(self, value: T) -> T:
        """What rank 0 has; the others may pass anything."""
        if self.mesh is None:
            return value
        box: list[Any] = [value if self.is_main else None]
        dist.broadcast_object_list(box, src=0)
        out: T = box[0]
        return out

    def sum(self, value: float) -> float:
        """Over data ranks; the same bits on every rank."""
        return math.fsum(self.gather(value))

    def max(self, value: float) -> float:
        """Over data ranks; NaN where one of them has it."""
        values = self.gather(value)
        return math.nan if any(math.isnan(v) for v in values) else max(values)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.mesh is not None:
            dist.barrier()

    def leave(self) -> None:
        """End the process group, if this world made it, when all ranks have come here or one has failed."""
        if not (self.owner and dist.is_initialized()):
            return
        if sys.exc_info()[0] is None:
            dist.barrier()
            time.sleep(0.2)  # gloo aborts a rank that has not read all of the barrier when another one is gone
        dist.destroy_process_group()


def check_grid(size: int, sequence_parallel: int) -> None:
    """Refuse ranks that cannot be laid out.

    Raises:
        UsageError: ``sequence_parallel`` does not divide the number of ranks.
    """
    if sequence_parallel < 1 or size % sequence_parallel:
        fits = [n for n in range(1, size + 1) if size % n == 0]
        raise UsageError(
            f"parallel.sequence={sequence_parallel} does not divide {size} rank{'s' * (size > 1)}; set it to one of "
            f"{fits}, or start a multiple of it with torchrun --nproc-per-node"
        )


def check_heads(config: PreTrainedConfig, sequence_parallel: int) -> None:
    """Refuse a model whose attention cannot be split; called before any weight is loaded.

    Sequence ranks exchange tokens for heads, so each must get a whole number of these. Key and value heads may be
    fewer than ranks: they are repeated.

    Raises:
        UsageError: the heads do not divide, or layers look back over a window.
    """
    if sequence_parallel == 1:
        return
    config = config.get_text_config()
    heads = int(config.num_attention_heads)
    if heads % sequence_parallel:
        fits = [n for n in range(1, heads + 1) if heads % n == 0]
        raise UsageError(
            f"parallel.sequence={sequence_parallel} does not divide the model's {heads} attention heads: a rank would "
            f"be left without a whole head; set it to one of {fits}"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if kinds:
        raise UsageError(
            f"parallel.sequence={sequence_parallel}: this model has layers of {sorted(kinds)}; only full attention can "
            "be split over ranks; set parallel.sequence=1"
        )


def _own_device(kind: str, variables: Mapping[str, str]) -> torch.device:
    """One GPU per rank of this machine."""
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise UsageError(f"device {kind!r}: expected cpu or cuda")
    local, count = int(variables.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    ranks = int(variables.get("LOCAL_WORLD_SIZE", "1"))
    if ranks > count:
        raise UsageError(
            f"{ranks} ranks on a machine with {count} GPU{'s' * (count != 1)}: every rank needs its own; start "
            f"torchrun with --nproc-per-node={max(count, 1)}{'' if count else ' and device=cpu'}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
