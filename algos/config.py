"""What can be set about training. The defaults here are the defaults; YAML files hold only what differs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from agents.base import Sampling
from agents.config import AgentConfig
from algos.advantages import ADVANTAGES
from retool_env.config import Config, EnvConfig, ProblemsConfig
from retool_env.errors import did_you_mean
from retool_env.sources.traces import TracePhase

__all__ = [
    "AlgoConfig",
    "DemoConfig",
    "ModelConfig",
    "OptimConfig",
    "PeriodicEvalConfig",
    "RayConfig",
    "RolloutConfig",
    "SftConfig",
    "SyncConfig",
    "TinyModelConfig",
    "TracesConfig",
    "TrainConfig",
]


Share = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Config):
    """AdamW.

    Attributes:
        lr: learning rate.
        betas: of the two moments.
        weight_decay: decoupled.
        max_grad_norm: gradients are scaled down to this norm.
    """

    lr: PositiveFloat = 3e-4
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0


class TinyModelConfig(Config):
    """Shape of the tiny model that is made from random weights.

    Attributes:
        hidden_size: width.
        intermediate_size: width of the MLP.
        num_layers: decoder layers.
        num_heads: attention heads.
        num_kv_heads: key/value heads.
        max_positions: longest context.
        rope_theta: base of the rotary embedding; small, because contexts are short.
    """

    hidden_size: PositiveInt = 128
    intermediate_size: PositiveInt = 352
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    num_kv_heads: PositiveInt = 2
    max_positions: PositiveInt = 1024
    rope_theta: PositiveFloat = 500.0


class ModelConfig(Config):
    """The policy.

    Attributes:
        path: checkpoint folder in Hugging Face format; ``null`` for a new tiny model with random weights.
        tiny: shape of the new model.
    """

    path: str | None = None
    tiny: TinyModelConfig = TinyModelConfig()


class PeriodicEvalConfig(Config):
    """Evaluation during training, on problems that are never trained on.

    Attributes:
        every: steps between two evaluations, from step 0 on; 0 for none on the way. The end is always evaluated.
        problems: what is asked.
        num_slots: episodes in flight.
        greedy: at the end, also evaluate with temperature 0.
    """

    every: NonNegativeInt = 10
    problems: ProblemsConfig = ProblemsConfig(split="heldout", size=500)
    num_slots: PositiveInt = 250
    greedy: bool = True

    @model_validator(mode="after")
    def _it_ends(self) -> PeriodicEvalConfig:
        if self.problems.name in ("arithmetic", "mixture") and self.problems.size is None:
            kind = "procedural source" if self.problems.name == "arithmetic" else "mixture"
            raise ValueError(f"problems.size must be set: a {kind} never ends")
        return self


class TracesConfig(Config):
    """Cold-start traces: synthetic ones (see ``retool_env.sources.traces``), or those of a file.

    Attributes:
        path: a file that ``retool data sft`` wrote; ``null`` for synthetic traces.
        epochs: passes over the file, each in an order of its own.
        num: how many; of a file at most.
        phases: mixtures, one after the other.
        families: weights of the problem families; ``null`` for equal ones.
    """

    path: str | None = None
    epochs: PositiveInt = 1
    num: PositiveInt = 40_000
    phases: Annotated[tuple[TracePhase, ...], Field(min_length=1)] = (
        TracePhase(share=1.0, tool_easy=0.3, tool_hard=0.8),
    )
    families: dict[str, float] | None = None


class SftConfig(Config):
    """``retool sft``.

    Attributes:
        out: run folder.
        resume: with a finished checkpoint in ``out``: only evaluate it.
        seed: of weights, data and order.
        threads: of torch; ``null`` for all cores.
        deterministic: same seed, same bits.
        model: what is trained.
        traces: what it is trained on.
        batch_tokens: tokens of one optimizer step, padding included.
        window: traces within which rows are sorted by length and shuffled.
        warmup_steps: of the learning rate.
        lr_floor: share of the learning rate that is left at the end.
        optim: the optimizer.
        eval: evaluation at the end; ``eval.every`` counts optimizer steps.
        env: the environment whose episodes the traces are.
    """

    out: str = "runs/sft"
    resume: bool = False
    seed: int = 0
    threads: PositiveInt | None = None
    deterministic: bool = True
    model: ModelConfig = ModelConfig()
    traces: TracesConfig = TracesConfig()
    batch_tokens: PositiveInt = 1024
    window: PositiveInt = 512
    warmup_steps: NonNegativeInt = 50
    lr_floor: float = Field(default=0.1, ge=0, le=1)
    optim: OptimConfig = OptimConfig(lr=4e-3, weight_decay=0.01)
    eval: PeriodicEvalConfig = PeriodicEvalConfig(every=0)
    env: EnvConfig = EnvConfig()


class AlgoConfig(Config):
    """Group Relative Policy Optimization and its relatives.

    Attributes:
        advantage: ``grpo``, ``dr_grpo`` or ``rloo``.
        steps: training steps; each collects, trains and raises the policy version by one.
        prompts_per_step: problems of one step.
        group_size: samples per problem.
        updates_per_step: optimizer steps on the samples of one step.
        clip_low: lower clip distance of the ratio.
        clip_high: upper clip distance.
        micro_batch_tokens: tokens of one forward pass, padding included.
        max_failed_share: of a step's episodes; when sandbox, engine or verifier fail more often, the run stops.
        mask_tool_tokens: off: train on the interpreter's tokens too (an ablation).
    """

    advantage: str = "grpo"
    steps: PositiveInt = 100
    prompts_per_step: PositiveInt = 20
    group_size: int = Field(default=8, ge=2)
    updates_per_step: PositiveInt = 1
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.28
    micro_batch_tokens: PositiveInt = 4096
    max_failed_share: float = Field(default=0.3, ge=0, le=1)
    mask_tool_tokens: bool = True

    @field_validator("advantage")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ADVANTAGES:
            raise ValueError(f"unknown{did_you_mean(name, ADVANTAGES)}")
        return name

    @property
    def tickets_per_step(self) -> int:
        return self.prompts_per_step * self.group_size


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


class TrainConfig(Config):
    """``retool train``.

    Attributes:
        out: run folder.
        seed: of problems, sampling and sandbox.
        threads: of torch; ``null`` for all cores.
        deterministic: same seed, same bits.
        resume: go on from the last checkpoint in ``out``.
        save_every: steps between checkpoints; the last step is always saved. 0 for only that one.
        log_trajectories: episodes of each step that are written to the run folder.
        model: the policy to start from.
        agent: who samples: ``embedded``, the model itself in this process, or ``sglang``, servers of the same model.
        sync: how new weights get there.
        problems: what is asked.
        algo: how it learns.
        rollout: how it is sampled from.
        optim: the optimizer.
        eval: evaluation during training.
        env: the environment.
    """

    out: str = "runs/train"
    seed: int = 0
    threads: PositiveInt | None = None
    deterministic: bool = True
    resume: bool = False
    save_every: NonNegativeInt = 20
    log_trajectories: NonNegativeInt = 8
    model: ModelConfig = ModelConfig()
    agent: AgentConfig = AgentConfig()
    sync: SyncConfig = SyncConfig()
    problems: ProblemsConfig = ProblemsConfig()
    algo: AlgoConfig = AlgoConfig()
    rollout: RolloutConfig = RolloutConfig()
    optim: OptimConfig = OptimConfig()
    eval: PeriodicEvalConfig = PeriodicEvalConfig()
    env: EnvConfig = EnvConfig()

    @model_validator(mode="after")
    def _sampled_as_scored(self) -> TrainConfig:
        """The trainer scores the whole distribution, divided by the temperature, and nothing else."""
        sampling = self.rollout.sampling
        if sampling.temperature == 0 or sampling.top_p < 1 or sampling.top_k:
            raise ValueError(
                f"rollout.sampling={sampling}: training needs temperature > 0, top_p=1 and top_k=0, because the "
                "trainer scores the whole distribution"
            )
        return self


class DemoConfig(Config):
    """``retool demo``: the stages of the main job.

    Attributes:
        out: run folder; finished stages are not run again.
        seed: of all stages.
        sft: the cold start.
        grpo: reinforcement learning with the reward of the paper.
        strategic: the same from the same start, with a price on tool calls.
    """

    out: str = "runs/demo"
    seed: int = 0
    sft: SftConfig = SftConfig()
    grpo: TrainConfig = TrainConfig()
    strategic: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _both_modes(self) -> DemoConfig:
        for name, stage in (("sft", self.sft), ("grpo", self.grpo), ("strategic", self.strategic)):
            if not stage.eval.greedy:
                raise ValueError(f"{name}.eval.greedy=false: the demo's table shows both modes")
        return self
