r"""Bytes on the fullest GPU, item by item, each with its formula.

Exact, because counted from the tensors themselves: shards of weights (float32), of gradients and of AdamW's two
moments. That is 16 bytes for each trained parameter, 4 for each frozen one, over the number of ranks (ZeRO stage 3,
1910.02054, section 5; without half-precision copies, because FSDP2 casts when it gathers).

Estimated, from reading FSDP2 and transformers' decoder; activations and head are within 10 % of measured peaks
(``tests/algos/test_plan.py``):

* **Gathered weights.** The unit at work and the next one, which is gathered meanwhile, and embeddings and head, which
  stay gathered from forward to backward pass; in the compute dtype.
* **Gradients before they are averaged.** Those of a unit in the compute dtype, and again in float32 for the reduction;
  embeddings and head are reduced last.
* **Activations.** With :math:`h, q, k, m` the widths of residual stream, queries, keys and MLP, and :math:`c` bytes a
  number, a layer of attention and gated MLP keeps for each token (as in 2205.05198, section 4.1, without scores, which
  flash attention does not keep, and without dropout)

  .. math:: 2 n + c\,(2q + 2k + 4m) + 4 \cdot \mathrm{heads}, \qquad n = 12h \;(c = 4)\;\text{or}\; 8h \;(c = 2)

  where :math:`n` is an RMSNorm's: its input in float32, the normalised and the scaled one. With gradient checkpointing
  a layer keeps its input, :math:`c h`, and one layer at a time is computed again. The backward pass of an MLP adds two
  of its widths. Sequence parallelism divides the tokens, and keeps queries and outputs of attention twice.
* **Scoring.** A pass without a backward pass keeps nothing of the layers behind it: :math:`c\,(4h + 3\max(m, q + k))`.
* **The LM head.** Tiles, the gradient of the states, and the head's whole gradient, in float32 (:mod:`algos.head`).
* **The optimizer's step.** AdamW in its ``foreach`` form takes about one more copy of what it updates.

The phases do not coincide, so the largest one counts. Not seen here: batches that are shorter than the longest allowed
(all are taken to be full, with every token trained), the adapters' own activations (r numbers per token and layer),
what NCCL and CUDA take, and fragmentation; for the last two ``RESERVE`` is set aside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from algos.plan.job import Job
from algos.plan.shapes import Weights

__all__ = ["GIB", "RESERVE", "Item", "Memory", "memory"]

GIB: Final = 2**30
RESERVE: Final = 0.08
"""Of a GPU, for CUDA, NCCL and fragmentation. An assumption."""
KEEP: Final = 2**24  # logits that a scorer keeps (algos.scorer)

Phase = Literal[
    "always", "scoring", "backward: head", "backward: layers", "backward: embeddings", "optimizer step", "sampling"
]
SCORING: Final[tuple[Phase, ...]] = ("scoring",)
HEAD: Final[tuple[Phase, ...]] = ("backward: head",)
LAYERS: Final[tuple[Phase, ...]] = ("backward: layers",)
EMBEDDINGS: Final[tuple[Phase, ...]] = ("backward: embeddings",)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of the table.

    Attributes:
        name: what it is.
        gpu: bytes on the fullest GPU.
        cpu: bytes in the memory of a machine.
        phases: when it is there.
        how: the formula in words.
    """

    name: str
    gpu: int = 0
    cpu: int = 0
    phases: tuple[Phase, ...] = ("always",)
    how: str


@dataclass(frozen=True, kw_only=True)
class Memory:
    """All items of a job."""

    items: tuple[Item, ...]

    def phase(self, name: Phase) -> int:
        """Bytes on the GPU in this phase, with what is always there."""
        return sum(item.gpu for item in self.items if {"always", name} & set(item.phases))

    @property
    def worst(self) -> Phase:
        """The phase with the highest peak."""
        phases: dict[Phase, None] = {phase: None for item in self.items for phase in item.phases}
        return max(phases, key=self.phase)

    @property
    def gpu(self) -> int:
        """Peak on the fullest GPU, in bytes."""
        return self.phase(self.worst)

    @property
    def cpu(self) -> int:
        """Peak on the fullest machine; files in its page cache not counted."""
        return sum(item.cpu for item in self.items)


def memory(job: Job) -> Memory:
    """Reckon."""
    kinds = (_states(job), _engine(job), _gathered(job), _unreduced(job), _activations(job), _head(job), _others(job))
    return Memory(items=tuple(item for items in kinds for item in items if item.gpu or item.cpu))


def _states(job: Job) -> Iterator[Item]:
    """Shards that are there all the time."""
    held = [("policy", job.policy)] + ([("critic", job.critic)] if job.critic else [])
    for name, weights in held:
        yield _held(job, f"weights of the {name}", 4 * weights.shard(job.ranks), "4 bytes a parameter / GPUs")
    if job.reference:
        size = 4 * job.policy.shard(job.ranks)
        yield _held(job, "weights of the reference", size, "a frozen copy; none with adapters")
    trained = sum(weights.shard(job.ranks, trained=True) for _, weights in held)
    yield _held(job, "gradients", 4 * trained, "4 bytes a trained parameter / GPUs")
    yield _held(job, "optimizer", 8 * trained, "two moments of AdamW, 8 bytes a trained parameter / GPUs")
    if job.async_save:
        size = 12 * trained * (job.ranks // job.cluster.nodes)
        yield Item(name="copy for checkpoints", cpu=size, how="async_save: weights and moments of this machine")


def _held(job: Job, name: str, size: int, how: str) -> Item:
    if not job.model.parallel.offload:
        return Item(name=name, gpu=size, how=how)
    return Item(name=name, cpu=size * (job.ranks // job.cluster.nodes), how=f"{how}, offloaded")


def _engine(job: Job) -> Iterator[Item]:
    if job.engine == "copy":
        yield Item(
            name="embedded engine's copy",
            gpu=job.width * job.policy.total,
            how="the whole model in the compute dtype, on the first GPU",
        )
    each = 2 * job.shape.layers * job.shape.key * job.width
    yield Item(
        name="engine's cache",
        gpu=each * job.kept_tokens,
        how=f"keys and values of at most {job.kept_tokens:,} tokens between two turns",
    )
    yield Item(
        name="episodes at work",
        gpu=each * job.sampled_tokens,
        phases=("sampling",),
        how=f"keys and values of at most {job.sampled_tokens:,} tokens",
    )
    if job.cluster.engine_share:
        size = int(job.cluster.engine_share * job.cluster.gpu_memory_gb * GIB)
        yield Item(name="SGLang on the same GPU", gpu=size, how="cluster.engine_share")


def _gathered(job: Job) -> Iterator[Item]:
    if not job.sharded:
        return
    weights, layers = job.policy, 2 if job.model.parallel.reshard else job.shape.layers
    yield Item(
        name="gathered layers",
        gpu=job.width * layers * weights.layer(),
        phases=(*SCORING, *LAYERS),
        how="the layer at work and the next one" if layers == 2 else "all layers (parallel.reshard=false)",
    )
    yield Item(
        name="gathered embeddings and head",
        gpu=job.width * weights.rest(),
        phases=(*SCORING, *HEAD, *LAYERS, *EMBEDDINGS),
        how="stay from forward to backward pass",
    )


def _unreduced(job: Job) -> Iterator[Item]:
    if not job.sharded:
        return
    weights = job.policy
    yield Item(
        name="a layer's gradients",
        gpu=(job.width + 4) * weights.layer(trained=True),
        phases=LAYERS,
        how="compute dtype, and float32 for the average",
    )
    yield Item(
        name="embeddings' and head's gradients",
        gpu=(job.width + 4) * weights.rest(trained=True),
        phases=EMBEDDINGS,
        how="compute dtype, and float32 for the average",
    )
    if weights.head_trained:
        size = job.width * job.shape.vocab * job.shape.hidden
        yield Item(name="the head's gradient", gpu=size, phases=LAYERS, how="waits for the embeddings'")


def _activations(job: Job) -> Iterator[Item]:
    shape, tokens, width = job.shape, job.rank_tokens, job.width
    again = job.model.gradient_checkpointing
    whole = tokens * _layer_bytes(job)
    kept = shape.layers * (tokens * width * shape.hidden if again else whole)
    yield Item(
        name="activations of the layers",
        gpu=kept + tokens * (_norm_bytes(job) + width * shape.hidden),
        phases=(*HEAD, *LAYERS),
        how=f"{tokens:,} tokens x {shape.layers} layers x {kept // shape.layers // tokens // 1024} KiB"
        f"{' (inputs only)' if again else ''}",
    )
    yield Item(
        name="the layer in the backward pass",
        gpu=(whole if again else 0) + 2 * tokens * width * shape.intermediate,
        phases=LAYERS,
        how="computed again, and gradients of its MLP" if again else "gradients of its MLP",
    )
    if job.score_tokens:
        scored = math.ceil(job.score_tokens / job.model.parallel.sequence)
        yield Item(
            name="a layer without gradients",
            gpu=scored * _forward_bytes(job),
            phases=SCORING,
            how=f"{scored:,} tokens: values, and log-probabilities before an update",
        )


def _norm_bytes(job: Job) -> int:
    """What an RMSNorm keeps of a token: its input in float32, the normalised one, the result."""
    return (12 if job.width == 4 else 8) * job.shape.hidden


def _layer_bytes(job: Job) -> int:
    """What a layer keeps of a token."""
    shape, exchanged = job.shape, job.model.parallel.sequence > 1
    key = max(shape.key, shape.query * job.model.parallel.sequence // shape.heads) if exchanged else shape.key
    attention = (3 if exchanged else 2) * shape.query + 2 * key
    return 2 * _norm_bytes(job) + job.width * (attention + 4 * shape.intermediate) + 4 * shape.heads


def _forward_bytes(job: Job) -> int:
    """What a layer holds of a token when nothing is kept for a backward pass: embeddings, its input, what attention or
    MLP work on, and rotary tables."""
    shape = job.shape
    work = 3 * max(shape.intermediate, shape.query + shape.key)
    return job.width * (4 * shape.hidden + work + 2 * shape.query // shape.heads)


def _head(job: Job) -> Iterator[Item]:
    shape, tokens = job.shape, job.rank_tokens
    tile = 4 * min(job.head_rows, tokens) * min(job.head_columns, shape.vocab)
    parts = 4 * min(job.head_columns, shape.vocab) * shape.hidden
    kept = 4 * tokens * shape.vocab if tokens * shape.vocab <= KEEP else 0
    yield Item(
        name="tiles of logits",
        gpu=kept + (5 if job.restricted else 3) * tile + parts,
        phases=HEAD,
        how=f"{job.head_rows} x {job.head_columns} in float32, and that part of the head",
    )
    yield Item(
        name="gradients of states and head",
        gpu=tokens * shape.hidden * (4 + job.width) + _head_gradient(job.policy, job),
        phases=HEAD,
        how="float32, then cast",
    )


def _head_gradient(weights: Weights, job: Job) -> int:
    if not weights.head_trained:
        return 0
    return job.shape.vocab * job.shape.hidden * (4 if job.width == 4 else 4 + job.width)


def _others(job: Job) -> Iterator[Item]:
    trained = job.policy.shard(job.ranks, trained=True)  # policy and critic step one after the other
    trained = max(trained, job.critic.shard(job.ranks, trained=True) if job.critic else 0)
    step = _held(job, "temporaries of AdamW", 4 * trained, "one copy of what is updated")
    yield Item(**{**vars(step), "phases": ("optimizer step",)})
    yield Item(
        name="loading",
        cpu=4 * job.policy.total,
        how="the first rank reads the whole checkpoint in float32; free again behind it",
    )
    yield Item(
        name="reserve", gpu=int(RESERVE * job.cluster.gpu_memory_gb * GIB), how="CUDA, NCCL, fragmentation: assumed"
    )
