"""What can be set about the machines that a plan reckons with."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from retool_env.config import Config

__all__ = ["ClusterConfig"]


class ClusterConfig(Config):
    """The machines that ``retool plan`` and a dry run reckon with; a real run takes those that ``torchrun`` gives it.

    Attributes:
        gpus: of the trainer, on all machines together.
        nodes: machines that these are on.
        gpu_memory_gb: GiB of one of them.
        engine_share: share of each that SGLang servers on the same GPUs hold (their ``--mem-fraction-static``).
    """

    gpus: PositiveInt = 1
    nodes: PositiveInt = 1
    gpu_memory_gb: PositiveFloat = 80.0
    engine_share: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _alike(self) -> ClusterConfig:
        if self.gpus % self.nodes:
            raise ValueError(f"gpus={self.gpus} on nodes={self.nodes}: every machine has equally many; set a multiple")
        return self
