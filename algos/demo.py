"""``retool demo``: the main job from nothing to a page that shows it.

Cold start, GRPO with the paper's reward, GRPO with a price on tool calls; each ends with an evaluation on problems that
no stage was trained on. A finished stage is recognised by its last evaluation and is not run again, so an interrupted
demo goes on with the stage it was in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import Enum, auto
from pathlib import Path

from rich.table import Table

from agents.console import make_console
from agents.report import Stage, write_report
from agents.run_folder import RunFolder
from agents.stats import Estimate, estimate
from algos.config import DemoConfig, SftConfig, TrainConfig
from algos.sft import sft
from algos.train import train
from retool_env.files import atomic
from retool_env.sources.arithmetic import EASY_FAMILIES, HARD_FAMILIES
from retool_env.tokenizer import load_tokenizer
from retool_env.trajectory import Trajectory, read_trajectories

__all__ = ["demo", "headline"]

TITLES = {
    "sft": "After the cold start",
    "grpo": "After GRPO",
    "strategic": "After GRPO with a price on calls",
}
DESCRIPTIONS = {
    "sft": "Supervised training on traces of mixed quality: right programs, forgotten prints, repaired errors, and "
    "many confident guesses. The model can call Python; it does not know when to.",
    "grpo": "Reinforcement learning that rewards only the final answer (+1 right, -1 wrong). Calling Python pays, so "
    "the model learns to call it, and to call it right.",
    "strategic": "From the same cold start, a right answer earns 1 - 0.5 per call and a wrong one nothing. The model "
    "keeps the tool for what it cannot do in its head.",
}
LEAD = (
    "A {size} Qwen2-architecture model, trained from random weights on CPU cores, learns when and how to call a Python "
    "interpreter. Every number is measured on {num} problems that were never trained on."
)


def demo(config: DemoConfig) -> Path:
    """Run ``retool demo``; returns the path of the report."""
    folder = Path(config.out)
    RunFolder(folder, config, resume=True)
    console = make_console()
    start = time.perf_counter()
    stages: Mapping[str, SftConfig | TrainConfig] = {
        "sft": config.sft,
        "grpo": config.grpo,
        "strategic": config.strategic,
    }
    for name, stage in stages.items():
        progress = _progress_of(stage)
        if progress is Progress.FINISHED:
            console.print(f"{name}: finished already, kept")
            continue
        console.rule(f"{TITLES[name].removeprefix('After ')} ({stage.out})")
        _run(stage, progress)
    table = headline({name: stage.out for name, stage in stages.items()})
    _write_summary(folder / "summary.json", table)
    report = folder / "report.html"
    _write_report(report, config, stages, seconds=time.perf_counter() - start)
    console.print(_show(table))
    console.print(f"report: {report}")
    return report


class Progress(Enum):
    """How far an earlier call came with a stage."""

    NEW = auto()
    BEGUN = auto()
    FINISHED = auto()


def _progress_of(stage: SftConfig | TrainConfig) -> Progress:
    folder = Path(stage.out)
    if not (folder / "config.yaml").is_file():
        return Progress.NEW
    RunFolder(folder, stage, resume=True)  # refuses a folder that was made with other settings
    return Progress.FINISHED if (folder / "eval" / "greedy.jsonl").is_file() else Progress.BEGUN


def _run(stage: SftConfig | TrainConfig, progress: Progress) -> None:
    resume = {"resume": progress is Progress.BEGUN}
    if isinstance(stage, SftConfig):
        sft(stage.model_copy(update=resume))
    else:
        train(stage.model_copy(update=resume))


def headline(folders: Mapping[str, str]) -> dict[str, dict[str, Estimate]]:
    """Per stage: accuracy, and tool-call rate on easy and hard families, sampled and greedy, with intervals."""
    return {name: _stage_numbers(Path(folder)) for name, folder in folders.items()}


def _stage_numbers(folder: Path) -> dict[str, Estimate]:
    numbers: dict[str, Estimate] = {}
    for mode in ("sampled", "greedy"):
        trajectories = list(read_trajectories(folder / "eval" / f"{mode}.jsonl"))
        numbers[f"accuracy_{mode}"] = _share(trajectories, lambda t: t.record.correct)
        for label, families in (("easy", EASY_FAMILIES), ("hard", HARD_FAMILIES)):
            members = [t for t in trajectories if t.record.problem.family in families]
            numbers[f"tool_rate_{label}_{mode}"] = _share(members, lambda t: t.record.num_tool_calls > 0)
    return numbers


def _share(trajectories: Sequence[Trajectory], holds: Callable[[Trajectory], bool]) -> Estimate:
    return estimate([[float(holds(t))] for t in trajectories if not t.record.outcome.failed])


def _write_summary(path: Path, table: Mapping[str, Mapping[str, Estimate]]) -> None:
    plain = {stage: {name: asdict(row) for name, row in numbers.items()} for stage, numbers in table.items()}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def _show(table: Mapping[str, Mapping[str, Estimate]]) -> Table:
    columns = ("accuracy", "tool_rate_easy", "tool_rate_hard")
    shown = Table("", "", "accuracy [95 %]", "tool calls, easy family", "tool calls, hard families")
    for name, numbers in table.items():
        for mode in ("sampled", "greedy"):
            cells = [str(numbers[f"{column}_{mode}"]) for column in columns]
            shown.add_row(TITLES[name] if mode == "sampled" else "", mode, *cells)
    return shown


def _write_report(
    path: Path, config: DemoConfig, stages: Mapping[str, SftConfig | TrainConfig], *, seconds: float
) -> None:
    checkpoint = Path(config.sft.out) / "checkpoints" / "final"
    tokenizer = load_tokenizer(str(checkpoint))
    model = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    size = f"{model['num_hidden_layers']}-layer, {model['hidden_size']}-wide"
    num = sum(1 for _ in read_trajectories(Path(config.sft.out) / "eval" / "sampled.jsonl"))
    write_report(
        path,
        title="When to call Python: ReTool on two CPU cores",
        lead=LEAD.format(size=size, num=num),
        stages=[
            Stage(
                name=name,
                title=TITLES[name],
                description=DESCRIPTIONS[name],
                metrics=Path(stage.out) / "metrics.jsonl",
                evals={mode: Path(stage.out) / "eval" / f"{mode}.jsonl" for mode in ("sampled", "greedy")},
            )
            for name, stage in stages.items()
        ],
        facts={
            "seed": str(config.seed),
            "wall time of this call": f"{seconds / 60:.1f} min",
            "command": f"retool demo seed={config.seed} out={config.out}",
        },
        pieces=lambda ids: [tokenizer.decode([i]) for i in ids],
        easy_families=EASY_FAMILIES,
    )
