"""``retool plan``: what a training would need, before anyone pays for it.

It takes the settings of ``retool train`` or ``retool sft``, whichever the recipe is for, reads no weights, no data and
no server, and ends with 0 when it fits and with 1 when it does not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

import yaml
from rich.console import Console
from rich.table import Table

from agents.console import make_console
from algos.config import SftConfig, TrainConfig
from algos.plan.advice import Change, changes
from algos.plan.config import ClusterConfig
from algos.plan.job import job_of
from algos.plan.memory import GIB, Memory, memory
from algos.plan.tokens import facts
from retool_env.compose import compose, config_folder

__all__ = ["main", "show"]

HELP = """\
retool plan: how much memory a training would need, and whether it fits, before it is paid for

usage: retool plan experiment=NAME [key=value ...]

examples:
  retool plan experiment=retool_qwen2.5_7b_grpo
      with the machines of the recipe; the model need not be there, its name is enough
  retool plan experiment=retool_qwen2.5_32b_grpo gpus=8 model.parallel.offload=true
      on other machines
  retool plan model.path=models/mine gpus=8 gpu_memory_gb=141 model.compute_dtype=bfloat16
      without a recipe; a folder with a config.json

settings: those of `retool train`, or of `retool sft` where the recipe is one of a cold start, and
  gpus=N             is  cluster.gpus=N            GPUs of the trainer, on all machines together
  nodes=N            is  cluster.nodes=N           machines that these are on
  gpu_memory_gb=N    is  cluster.gpu_memory_gb=N   GiB of one
  engine_share=X     is  cluster.engine_share=X    share of each that SGLang servers on the same GPUs hold

exit code: 0 it fits, 1 it does not, 2 a mistake in the settings"""


def main(arguments: Sequence[str]) -> int:
    """``retool plan ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(HELP)
        return 0
    overrides = [_cluster(argument) for argument in arguments]
    config: TrainConfig | SftConfig
    if _is_cold_start(overrides):
        config = compose("sft", SftConfig, overrides)
    else:
        config = compose("train", TrainConfig, overrides)
    return 0 if show(config, make_console()) else 1


def show(config: TrainConfig | SftConfig, out: Console) -> bool:
    """Print the plan; returns whether it fits."""
    job = job_of(config)
    needed = memory(job)
    cluster = config.cluster
    where = f"{cluster.gpus} x {cluster.gpu_memory_gb:g} GiB on {cluster.nodes} machine{'s' * (cluster.nodes > 1)}"
    out.print(_table(needed, f"{config.model.path}: {where}"))
    for name, value in facts(config, job):
        out.print(f"{name:>28}  {value}", highlight=False)
    for line in _verdict(config, needed):
        out.print(line, highlight=False, soft_wrap=True)
    return needed.gpu <= cluster.gpu_memory_gb * GIB


def _cluster(argument: str) -> str:
    name, equals, _ = argument.partition("=")
    return f"cluster.{argument}" if equals and name in ClusterConfig.model_fields else argument


def _is_cold_start(overrides: Sequence[str]) -> bool:
    """Whether recipe and overrides set something that only ``retool sft`` has."""
    keys = {override.lstrip("+").partition("=")[0].partition(".")[0] for override in overrides}
    for override in overrides:
        name, _, recipe = override.partition("=")
        path = config_folder() / "experiment" / f"{recipe}.yaml"
        if name == "experiment" and path.is_file():
            keys |= set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    return bool(keys & (SftConfig.model_fields.keys() - TrainConfig.model_fields.keys()))


def _table(needed: Memory, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", "GPU, GiB", "CPU, GiB", "when", "how"):
        table.add_column(column, justify="right" if column.endswith("GiB") else "left")
    for item in needed.items:
        when = ", ".join(phase.removeprefix("backward: ") for phase in item.phases)
        table.add_row(item.name, _gib(item.gpu), _gib(item.cpu), when, item.how)
    table.add_section()
    total = f"peak: {needed.worst}"
    table.add_row("fullest GPU, fullest machine", _gib(needed.gpu), _gib(needed.cpu), total, "", style="bold")
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size else ""


def _verdict(config: TrainConfig | SftConfig, needed: Memory) -> Iterator[str]:
    have = config.cluster.gpu_memory_gb
    if needed.gpu <= have * GIB:
        yield f"[bold green]fits[/]: {needed.gpu / GIB:.1f} of {have:g} GiB on the fullest GPU"
        return
    yield f"[bold red]does not fit[/]: {needed.gpu / GIB:.1f} GiB on the fullest GPU, which has {have:g}"
    better = [change for change in changes(config) if change.memory.gpu < needed.gpu]
    if better and better[0].memory.gpu > have * GIB:
        yield "no single change is enough; these help most:"
    for change in better[:3]:
        yield f"  {_advice(change, needed)}"


def _advice(change: Change, needed: Memory) -> str:
    more = change.memory.cpu - needed.cpu
    host = f", and {more / GIB:.0f} GiB more in the memory of a machine" if more > GIB else ""
    return f"{shlex.quote(change.override)} brings it to {change.memory.gpu / GIB:.1f} GiB{host}"
