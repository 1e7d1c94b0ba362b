"""Ours in ``benchmarks/learning.py``: ``retool train`` with the settings that it is given, under the clock."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from clock import Clock
from torch import nn
from transformers import PreTrainedModel

from algos.config import TrainConfig
from algos.train import train
from retool_env.compose import compose


def main() -> None:
    order = json.loads(sys.argv[1])
    config = compose("train", TrainConfig, order["settings"])
    clock = Clock(Path(order["folder"]))

    def after_step(step: int, model: nn.Module) -> bool:
        assert isinstance(model, PreTrainedModel)
        return clock.examine(step, model.save_pretrained)

    clock.start()
    train(config, after_step=after_step)


if __name__ == "__main__":
    main()
