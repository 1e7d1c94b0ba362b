"""Which single change of the configuration lowers the peak most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from algos.config import SftConfig, TrainConfig
from algos.plan.job import job_of
from algos.plan.memory import Memory, memory
from retool_env.config import check_config
from retool_env.errors import UsageError

__all__ = ["Change", "changes"]

Value = float | int | str | bool | dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Change:
    """An override, and the memory with it."""

    override: str
    memory: Memory


def changes(config: TrainConfig | SftConfig) -> list[Change]:
    """All changes that there are to make, those first that leave the lowest peak on the GPU."""
    tried = []
    for key, value in _overrides(config):
        try:
            changed = memory(job_of(_changed(config, key, value)))
        except UsageError:  # e.g. more sequence ranks than heads
            continue
        tried.append(Change(override=f"{key}={_written(value)}", memory=changed))
    return sorted(tried, key=lambda change: change.memory.gpu)


def _overrides(config: TrainConfig | SftConfig) -> Iterator[tuple[str, Value]]:
    model = config.model
    if model.compute_dtype == "float32":
        yield "model.compute_dtype", "bfloat16"
    if not model.gradient_checkpointing:
        yield "model.gradient_checkpointing", True
    if not model.parallel.offload:
        yield "model.parallel.offload", True
    if not model.parallel.reshard:
        yield "model.parallel.reshard", True
    if model.lora is None:
        yield "model.lora", {"r": 16}
    yield "model.parallel.sequence", 2 * model.parallel.sequence
    yield "cluster.gpus", 2 * config.cluster.gpus
    tokens, longest = job_of(config).tokens, config.env.max_context_tokens
    if tokens > longest:
        section = "algo." if isinstance(config, TrainConfig) else ""
        yield f"{section}micro_batch_tokens", max(longest, tokens // 2)
    if isinstance(config, TrainConfig) and config.agent.name == "embedded":
        yield "agent.name", "sglang"


def _changed(config: TrainConfig | SftConfig, key: str, value: Value) -> TrainConfig | SftConfig:
    values = config.model_dump()
    *sections, last = key.split(".")
    inner = values
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return check_config(type(config), values)


def _written(value: Value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {inner}" for name, inner in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)
