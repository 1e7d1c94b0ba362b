"""What can be set about the algorithm: advantage, objective, aggregation, corrections, penalties, critic, batches.

The parts are independent, and ``docs/algorithms.md`` says which there are. What does not go together is refused here,
before a model is loaded; ``configs/algo/`` has the usual combinations by name (``algo=ppo``).

The checks are those of the parts themselves, which need torch. Defaults are not checked, so that ``--help``, and
whatever else only reads a configuration, does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from algos.advantages import ESTIMATORS, Advantage, make_advantage, needs_critic
from algos.choices import Aggregation, KlEstimator, Layout
from retool_env.config import Config

if TYPE_CHECKING:
    from algos.correction import Correction
    from algos.losses import KlPenalty, Objective

__all__ = [
    "AdvantageConfig",
    "AlgoConfig",
    "CorrectionConfig",
    "CovarianceConfig",
    "CriticConfig",
    "KlConfig",
    "ObjectiveConfig",
]

Band = tuple[float, float]
Share = Annotated[float, Field(gt=0, le=1)]


class AdvantageConfig(Config):
    """How much better a sample was than expected.

    Attributes:
        name: an estimator of ``docs/algorithms.md``, or your own as ``file.py:function``.
        options: its keyword arguments, e.g. ``{lam: 0.95}``.
    """

    name: str = "grpo"
    options: dict[str, float] | None = None

    @model_validator(mode="after")
    def _known(self) -> AdvantageConfig:
        self.make()
        return self

    def make(self) -> Advantage:
        return make_advantage(self.name, **(self.options or {}))


class ObjectiveConfig(Config):
    """What is maximised per token.

    Attributes:
        name: an objective of ``docs/algorithms.md``.
        options: its keyword arguments, e.g. ``{low: 0.2, high: 0.28, ratio_cap: 10}``.
    """

    name: str = "clip"
    options: dict[str, float | None] | None = None

    @model_validator(mode="after")
    def _known(self) -> ObjectiveConfig:
        if self.model_fields_set:
            self.make()
        return self

    def make(self) -> Objective:
        from algos.losses import make_objective

        return make_objective(self.name, **(self.options or {}))


class CovarianceConfig(Config):
    """Which tokens ``clip_cov`` and ``kl_cov`` single out.

    Attributes:
        share: of the trained tokens.
        band: of the covariance that they are drawn from; ``null`` for the highest.
    """

    share: Share = 2e-4
    band: Band | None = None


class CorrectionConfig(Config):
    """Rollout correction; ``null`` switches a rule off. See :class:`algos.correction.Correction`.

    Attributes:
        weight_cap: truncated importance sampling; ``.inf`` is decoupled PPO.
        token_band: tokens whose weight leaves it are not trained on.
        sequence_cap: sequences whose weight exceeds it are not trained on.
        geometric_band: sequences whose mean weight leaves it are not trained on.
        off_policy_gap: bad sequences that the policy has left behind by more than this are not trained on.
    """

    weight_cap: float | None = None
    token_band: Band | None = None
    sequence_cap: float | None = None
    geometric_band: Band | None = None
    off_policy_gap: float | None = None

    @model_validator(mode="after")
    def _valid(self) -> CorrectionConfig:
        if any(rule is not None for _, rule in self):
            self.make()
        return self

    def make(self) -> Correction:
        from algos.correction import Correction

        return Correction(**self.model_dump())


class KlConfig(Config):
    """Distance to a reference policy.

    Attributes:
        coef: factor; 0 for none, and then no reference is held.
        estimator: ``k1``, ``k2``, ``k3`` or ``k3_unbiased``, of the loss.
        place: ``loss``, or ``reward``: k1 per token, taken off the reward.
        refresh_every: steps after which the current policy becomes the reference; 0 for never.
    """

    coef: NonNegativeFloat = 0.0
    estimator: KlEstimator = "k3_unbiased"
    place: Literal["loss", "reward"] = "loss"
    refresh_every: NonNegativeInt = 0

    def penalty(self) -> KlPenalty | None:
        """The term of the loss, if there is one."""
        from algos.losses import KlPenalty

        return KlPenalty(coef=self.loss_coef, estimator=self.estimator) if self.loss_coef else None

    @property
    def loss_coef(self) -> float:
        return self.coef if self.place == "loss" else 0.0

    @property
    def reward_coef(self) -> float:
        return self.coef if self.place == "reward" else 0.0


class CriticConfig(Config):
    """The critic, for advantages that need one (``gae``, ``vapo``).

    Attributes:
        shared: a head on the policy's own backbone instead of a backbone of its own.
        clip: how far a value may move in one step; ``null`` for any distance.
        coef: of its loss where the backbone is shared.
        lr: learning rate; ``null`` for the policy's.
        warmup_steps: first steps, which train the critic alone.
    """

    shared: bool = False
    clip: PositiveFloat | None = 0.2
    coef: PositiveFloat = 0.5
    lr: PositiveFloat | None = None
    warmup_steps: NonNegativeInt = 0


class AlgoConfig(Config):
    """How a policy learns from its samples.

    Attributes:
        steps: training steps; each collects, trains and raises the policy version by one.
        num_epochs: passes over the problems instead, which gives the number of steps; ``null`` to count steps. Problems
            that ``resample_rounds`` takes besides are not counted: with it, a run of as many steps goes further.
        prompts_per_step: problems of one step.
        group_size: samples per problem.
        resample_rounds: dynamic sampling: at most so many times, problems that all samples solved or none did are
            replaced by others, which are played at once. A step that is still short then trains on what it has.
        epochs: passes over the samples of a step.
        minibatches: optimizer steps of one pass, each on a part of the groups.
        advantage: how much better a sample was than expected.
        objective: what is maximised per token.
        covariance: of ``clip_cov`` and ``kl_cov``.
        aggregation: how tokens are added up: ``token_mean``, ``sequence_mean``, ``sequence_sum``, ``prompt_mean``.
        aggregation_length: L of ``sequence_sum``; ``null`` for ``env.max_context_tokens``.
        rescore: take ratios against the trainer's own log-probabilities at the start of the step rather than the
            engine's; costs a forward pass. Corrections do it by themselves.
        correction: what to do about samples from another policy.
        kl: distance to a reference policy.
        entropy_coef: entropy bonus.
        mask_overlong: do not learn from episodes that a length limit cut.
        mask_void: do not learn from episodes with a turn that neither called a tool nor answered.
        mask_tool_tokens: off: train on the interpreter's tokens too (an ablation).
        critic: of ``gae`` and ``vapo``.
        layout: of micro-batches: ``sorted``, ``packed`` or ``shared``; ``null`` for the one that was measured to be
            fastest for this kind of machine and attention.
        micro_batch_tokens: tokens of one forward pass, padding included; what samples share counts once.
        score_tokens: tokens of one forward pass without a backward pass, which needs less memory: values, and
            log-probabilities before the first update; ``null`` for the same.
        head_rows: tokens of one tile of the LM head.
        head_columns: vocabulary entries of one tile.
        max_failed_share: of a step's episodes; when sandbox, engine or verifier fail more often, the run stops.
    """

    steps: PositiveInt = 100
    num_epochs: PositiveFloat | None = None
    prompts_per_step: PositiveInt = 20
    group_size: PositiveInt = 8
    resample_rounds: NonNegativeInt = 0
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    covariance: CovarianceConfig = CovarianceConfig()
    aggregation: Aggregation = "token_mean"
    aggregation_length: PositiveInt | None = None
    rescore: bool = False
    correction: CorrectionConfig = CorrectionConfig()
    kl: KlConfig = KlConfig()
    entropy_coef: float = 0.0
    mask_overlong: bool = False
    mask_void: bool = False
    mask_tool_tokens: bool = True
    critic: CriticConfig = CriticConfig()
    layout: Layout | None = None
    micro_batch_tokens: PositiveInt = 4096
    score_tokens: PositiveInt | None = None
    head_rows: PositiveInt = 256
    head_columns: PositiveInt = 4096
    max_failed_share: float = Field(default=0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _it_goes_together(self) -> AlgoConfig:
        if self.objective.model_fields_set:
            from algos.losses import check_aggregation

            check_aggregation(self.objective.make(), self.aggregation)
        if self.group_size == 1 and self.baseline == "group":
            raise ValueError(
                f"group_size=1: advantage={self.advantage.name!r} compares the samples of one problem; set "
                "group_size=2 or more, or take reinforce_pp, gae or vapo"
            )
        if self.minibatches > self.prompts_per_step:
            raise ValueError(
                f"minibatches={self.minibatches} of prompts_per_step={self.prompts_per_step} problems: a group is "
                "never split; set at most as many"
            )
        return self

    @model_validator(mode="after")
    def _it_learns_something(self) -> AlgoConfig:
        if self.resample_rounds and self.group_size == 1:
            raise ValueError(
                f"resample_rounds={self.resample_rounds} with group_size=1: dynamic sampling keeps problems that some "
                "samples solved and others did not, so it would keep none; set resample_rounds=0, or group_size=2 or "
                "more"
            )
        if self.objective.name == "kl_cov" and self.epochs * self.minibatches == 1:
            raise ValueError(
                "objective='kl_cov' with epochs=1 and minibatches=1: its penalty is on the distance from where the "
                "step began, which is rounding before the first update; set minibatches=4, or epochs=2 or more"
            )
        return self

    @property
    def baseline(self) -> Literal["group", "critic", "none"]:
        """What samples are compared with. A user's own estimator is taken to need groups of any size."""
        if self.needs_critic:
            return "critic"
        return "none" if self.advantage.name == "reinforce_pp" or self.advantage.name not in ESTIMATORS else "group"

    @property
    def needs_critic(self) -> bool:
        return needs_critic(self.advantage.name)

    @property
    def needs_proximal(self) -> bool:
        return self.rescore or self.correction.make().needs_proximal

    @property
    def reads_all_samples(self) -> bool:
        """Whether a term of the loss also reads samples whose advantage is zero."""
        return bool(self.kl.loss_coef or self.entropy_coef)

    @property
    def selects_tokens(self) -> bool:
        return self.objective.name in ("clip_cov", "kl_cov")

    @property
    def tickets_per_step(self) -> int:
        return self.prompts_per_step * self.group_size
