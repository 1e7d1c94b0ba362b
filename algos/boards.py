"""Where else the numbers of a run go: TensorBoard, Weights & Biases, SwanLab.

Contract: a board gets the finite numbers of a row; what it does with a step that it has seen before (a run that was
resumed behind its last checkpoint) is its own affair. ``metrics.jsonl`` is the record; boards are for looking.
Packages are imported when a run asks for them, and :func:`check_boards` says before it begins which are missing.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import uuid4

import yaml

from algos.logger_config import BoardName, LoggerConfig
from retool_env.errors import MissingExtraError

__all__ = ["Board", "check_boards", "open_boards"]

_EXTRAS: Final[Mapping[BoardName, str]] = {"tensorboard": "train", "wandb": "wandb", "swanlab": "swanlab"}


class Board(Protocol):
    """One place that shows curves."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_boards(config: LoggerConfig) -> None:
    """Refuse a backend whose package is not there.

    Raises:
        MissingExtraError: names the extra to install.
    """
    for name in config.backends:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder of that name in the working directory is no package
            raise MissingExtraError(f"logger.backends={name}", _EXTRAS[name])


def open_boards(config: LoggerConfig, folder: Path, *, first: int) -> list[Board]:
    """The boards of the run in ``folder``; rows from step ``first`` on will be written again."""
    title = config.run or "/".join(folder.resolve().parts[-2:])
    made: list[Board] = []
    for name in dict.fromkeys(config.backends):
        if name == "tensorboard":
            made.append(_TensorBoard(folder, first))
        else:
            kind = _Wandb if name == "wandb" else _SwanLab
            made.append(kind(folder, config.project, title))
    return made


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The values that a chart can show."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class _TensorBoard:
    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in finite(values).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """The step is a metric of its own, because wandb's own counter never goes back and ours does on resuming."""

    def __init__(self, folder: Path, project: str, title: str) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=project,
            name=title,
            id=_id(folder / "wandb.id"),
            resume="allow",
            dir=str(folder),
            config=_settings(folder),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**finite(values), "step": step})

    def close(self) -> None:
        self._run.finish()


class _SwanLab:
    def __init__(self, folder: Path, project: str, title: str) -> None:
        import swanlab

        self._run: Any = swanlab.init(
            project=project,
            experiment_name=title,
            id=_id(folder / "swanlab.id")[:21],  # the length that SwanLab's ids have
            resume="allow",
            logdir=str(folder / "swanlab"),
            config=_settings(folder),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(finite(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _settings(folder: Path) -> object:
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def _id(path: Path) -> str:
    """By which a board knows this run again when it is resumed."""
    if not path.is_file():
        path.write_text(uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")
