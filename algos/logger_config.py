"""What can be set about where the numbers of a run go."""

from __future__ import annotations

from typing import Literal

from retool_env.config import Config

__all__ = ["BoardName", "LoggerConfig"]

BoardName = Literal["tensorboard", "wandb", "swanlab"]


class LoggerConfig(Config):
    """Where the numbers go besides ``metrics.jsonl``, which is always written.

    Attributes:
        backends: any of ``tensorboard``, ``wandb`` and ``swanlab``. The last two are packages of their own
            (``pip install 'retool-env[wandb]'``), and take address, key and mode from their own environment variables.
        console: say on the terminal how it goes; off, only alarms are said.
        project: of ``wandb`` and ``swanlab``.
        run: name of the run there; ``null`` for the last two folders of ``out``.
    """

    backends: tuple[BoardName, ...] = ("tensorboard",)
    console: bool = True
    project: str = "retool"
    run: str | None = None
