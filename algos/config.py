"""What can be set about training. The defaults here are the defaults; YAML files hold only what differs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from agents.base import Sampling
from agents.config import AgentConfig
from algos.algo_config import AlgoConfig
from algos.logger_config import LoggerConfig
from algos.plan.config import ClusterConfig
from algos.policy.config import PolicyOptions
from algos.rollout_config import RayConfig, RolloutConfig, SyncConfig
from retool_env.config import Config, EnvConfig, ProblemsConfig
from retool_env.sources.traces import TracePhase

__all__ = [
    "AlgoConfig",
    "ClusterConfig",
    "DemoConfig",
    "LoggerConfig",
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
        warmup_steps: training steps over which the learning rate rises to ``lr``.
        schedule: what it does afterwards: ``constant``, ``linear`` or ``cosine`` to ``lr_floor`` at the last step.
        lr_floor: share of ``lr`` that is left at the end.
    """

    lr: PositiveFloat = 3e-4
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    lr_floor: float = Field(default=0.1, ge=0, le=1)


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


class ModelConfig(PolicyOptions):
    """The policy.

    Attributes:
        path: checkpoint folder in Hugging Face format; ``null`` for a new tiny model with random weights.
        tiny: shape of the new model.
        lora: train adapters (``{r: 16, alpha: 32, dropout: 0.05}``); ``null`` for all weights.
        gradient_checkpointing: compute activations again in the backward pass.
        compute_dtype: ``float32``, ``bfloat16`` or ``float16``; the weights that are trained are float32 always.
        attention: implementation as transformers names it; ``null`` for the model's default.
        parallel: how it lies on the ranks that ``torchrun`` started.
    """

    path: str | None = None
    tiny: TinyModelConfig = TinyModelConfig()


class PeriodicEvalConfig(Config):
    """Evaluation during training, on problems that are never trained on.

    Attributes:
        every: steps between two evaluations, from step 0 on; 0 for none on the way. The end is always evaluated.
        problems: what is asked.
        samples: per problem.
        sampling: how.
        num_slots: episodes in flight.
        greedy: at the end, also evaluate with temperature 0.
    """

    every: NonNegativeInt = 10
    problems: ProblemsConfig = ProblemsConfig(split="heldout", size=500)
    samples: PositiveInt = 1
    sampling: Sampling = Sampling()
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
        resume: go on from the last checkpoint in ``out``; a finished one is only evaluated. A run folder in place of
            ``true`` (``--resume RUN``) goes on with that run as it was configured.
        save_every: optimizer steps between checkpoints; the last step is always saved. 0 for only that one.
        keep_last: checkpoints on the way that stay; ``null`` for all.
        async_save: write checkpoints while training goes on, from a copy in memory.
        dry_run: check configuration, data and shards without weights, and write nothing; see :mod:`algos.dry_run`.
        seed: of weights, data and order.
        threads: of torch; ``null`` for all cores.
        deterministic: same seed, same bits.
        model: what is trained.
        traces: what it is trained on.
        batch_tokens: tokens of one optimizer step, padding included.
        batch_traces: traces of one optimizer step instead, in their order, however long they are; ``null`` to count
            tokens.
        micro_batch_tokens: tokens of one forward pass; ``null`` for all of a step, or with ``batch_traces`` for the
            longest trace.
        layout: of micro-batches: ``sorted`` or ``packed``.
        head_rows: tokens of one tile of the LM head.
        head_columns: vocabulary entries of one tile.
        window: traces within which rows are sorted by length and shuffled.
        optim: the optimizer.
        eval: evaluation at the end; ``eval.every`` counts optimizer steps.
        env: the environment whose episodes the traces are.
        logger: where the numbers go.
        cluster: for plans and dry runs.
    """

    out: str = "runs/sft"
    resume: bool = False
    save_every: NonNegativeInt = 0
    keep_last: PositiveInt | None = None
    async_save: bool = False
    dry_run: bool = False
    seed: int = 0
    threads: PositiveInt | None = None
    deterministic: bool = True
    model: ModelConfig = ModelConfig()
    traces: TracesConfig = TracesConfig()
    batch_tokens: PositiveInt = 1024
    batch_traces: PositiveInt | None = None
    micro_batch_tokens: PositiveInt | None = None
    layout: Literal["sorted", "packed"] = "sorted"
    head_rows: PositiveInt = 256
    head_columns: PositiveInt = 4096
    window: PositiveInt = 512
    optim: OptimConfig = OptimConfig(lr=4e-3, weight_decay=0.01, warmup_steps=50, schedule="cosine")
    eval: PeriodicEvalConfig = PeriodicEvalConfig(every=0)
    env: EnvConfig = EnvConfig()
    logger: LoggerConfig = LoggerConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def pass_tokens(self) -> int:
        """Of one forward pass, at most."""
        whole = self.batch_tokens if self.batch_traces is None else self.env.max_context_tokens
        return self.micro_batch_tokens or whole


class TrainConfig(Config):
    """``retool train``.

    Attributes:
        out: run folder.
        seed: of problems, sampling and sandbox.
        threads: of torch; ``null`` for all cores.
        deterministic: same seed, same bits.
        resume: go on from the last checkpoint in ``out``. A run folder in place of ``true`` (``--resume RUN``) goes on
            with that run as it was configured.
        dry_run: check configuration, data and shards without weights, and write nothing; see :mod:`algos.dry_run`.
        save_every: steps between checkpoints; the last step is always saved. 0 for only that one.
        keep_last: checkpoints on the way that stay; ``null`` for all.
        keep_best: also keep the one with the best ``eval/accuracy``, as ``checkpoints/best``.
        async_save: write checkpoints behind the trainer's back, from a copy in the memory of the CPU.
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
        logger: where the numbers go.
        cluster: for plans and dry runs.
    """

    out: str = "runs/train"
    seed: int = 0
    threads: PositiveInt | None = None
    deterministic: bool = True
    resume: bool = False
    dry_run: bool = False
    save_every: NonNegativeInt = 20
    keep_last: PositiveInt | None = None
    keep_best: bool = False
    async_save: bool = False
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
    logger: LoggerConfig = LoggerConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _the_parts_fit(self) -> TrainConfig:
        if self.algo.kl.refresh_every and self.model.lora is not None:
            raise ValueError(
                "algo.kl.refresh_every with model.lora: the reference is the model without its adapters; set "
                "algo.kl.refresh_every=0, or train all weights"
            )
        if self.algo.layout == "shared" and self.model.parallel.sequence > 1:
            raise ValueError("algo.layout=shared with model.parallel.sequence > 1: take algo.layout=packed or sorted")
        return self

    @model_validator(mode="after")
    def _sampled_as_scored(self) -> TrainConfig:
        """Engines report log-probabilities of the whole distribution. Those of a part of it the trainer computes
        itself, with the weights that the step starts from."""
        sampling = self.rollout.sampling
        if sampling.temperature == 0:
            raise ValueError(
                "rollout.sampling.temperature=0: there is nothing to learn from greedy samples; set it > 0"
            )
        if (sampling.top_p < 1 or sampling.top_k) and (self.rollout.staleness or self.rollout.replay):
            raise ValueError(
                f"rollout.sampling={sampling}: with top_p < 1 or top_k > 0 the samples have to come from the weights "
                "that are trained; set rollout.staleness=0 and no replay, or top_p=1 and top_k=0"
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
