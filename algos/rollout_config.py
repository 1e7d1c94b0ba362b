"""What can be set about who samples, how weights get there, and how trajectories are made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from agents.base import Sampling
from retool_env.config import Config

__all__ = ["RayConfig", "RolloutConfig", "SyncConfig"]


class SyncConfig(Config):
    """How new weights reach whoever samples.

    Attributes:
        kind: ``shared``: the embedded engine reads the trainer's tensors. For servers ``disk``: a folder that both see;
            ``tensor``: handles, on one machine; ``group``: a broadcast. ``null`` for the first that fits the agent.
        folder: of ``disk``; ``null`` for ``weights`` in the run folder.
        keep: versions that stay in it.
        backend: of ``group``.
        address: of this machine as the servers reach it, for ``group``; ``null`` to find it out.
        dtype: weights are cast to it on the way; ``null`` for the trainer's own.
        probe: after every update, compare log-probabilities of a few tokens with the trainer's.
        tolerance: of that comparison.
    """

    kind: Literal["shared", "disk", "tensor", "group"] | None = None
    folder: str | None = None
    keep: PositiveInt = 2
    backend: Literal["nccl", "gloo"] = "nccl"
    address: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    probe: bool = True
    tolerance: PositiveFloat = 0.1


class RayConfig(Config):
    """Rollout workers on Ray.

    Attributes:
        workers: how many; 0 for none: the trainer's own process plays.
        address: of a running cluster (``auto`` on one of its machines); ``null`` starts one on this machine.
        groups: that a worker plays at the same time.
        num_cpus: that a worker asks for.
        num_gpus: the same.
    """

    workers: NonNegativeInt = 0
    address: str | None = None
    groups: PositiveInt = 4
    num_cpus: PositiveFloat = 1.0
    num_gpus: float = Field(default=0.0, ge=0)


class RolloutConfig(Config):
    """How trajectories are made.

    Attributes:
        collector: ``torchrl`` runs environments in threads; ``plain`` is a loop in this thread (the oracle).
        num_slots: episodes in flight; ``null`` for all of a step.
        staleness: how many versions older than its step a trained token may be; 0 is on-policy. A trajectory with an
            older token is withheld from training, and counted.
        group_versions: ``same``: the trained members of a group were all sampled by one version, none across an update;
            the others are withheld, and counted. ``any``: within ``staleness``.
        sampling: how.
        store: keep every trajectory in the run folder.
        replay: folder of a run; train on what it stored instead of playing.
        ray: workers on other machines, or on this one.
    """

    collector: Literal["torchrl", "plain"] = "torchrl"
    num_slots: PositiveInt | None = None
    staleness: NonNegativeInt = 0
    group_versions: Literal["any", "same"] = "any"
    sampling: Sampling = Sampling()
    store: bool = True
    replay: str | None = None
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _the_plain_loop_is_on_policy(self) -> RolloutConfig:
        if self.staleness and self.collector == "plain":
            raise ValueError(f"staleness={self.staleness} needs collector=torchrl; the plain loop has no gate")
        return self
