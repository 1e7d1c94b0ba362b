"""What a step changes and what it compares with: policy, critic, reference, and their optimizers.

One object holds them because they are made from the same configuration and saved together; what is done with them is
:mod:`algos.learn`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from algos.batch import Layout
from algos.config import OptimConfig, TrainConfig
from algos.isolation import choose_layout
from algos.losses import PolicyLoss
from algos.policy.model import build_critic, build_policy, place_critic, trainable
from algos.policy.reference import Reference, make_reference
from algos.policy.world import World
from algos.schedule import lr_factor
from algos.scorer import Scorer
from algos.value import Critic, ValueLoss

__all__ = ["ActorCritic", "CriticParts", "Trained", "around", "make_actor_critic", "make_optimizer"]


@dataclass(frozen=True, kw_only=True)
class CriticParts:
    """The critic, its loss and the optimizer of the weights that are its alone."""

    critic: Critic
    loss: ValueLoss
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a checkpoint holds of a trainer.

    Attributes:
        model: the policy. In reinforcement learning it stays in evaluation mode: no dropout, because the ratio compares
            with what an engine sampled without it.
        optimizer: of the policy's trainable weights.
        critic: where the advantage needs one.
        reference: scores tokens with the reference policy, where a KL penalty needs it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    critic: CriticParts | None = None
    reference: Reference | None = None

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By name."""
        return {"actor": self.optimizer} | ({"critic": self.critic.optimizer} if self.critic else {})


@dataclass(frozen=True, kw_only=True)
class ActorCritic(Trained):
    """What learns by reinforcement.

    Attributes:
        loss: of the policy.
        layout: of micro-batches.
    """

    loss: PolicyLoss
    layout: Layout

    @property
    def scorer(self) -> Scorer:
        return self.loss.scorer

    def set_progress(self, step: int, config: TrainConfig) -> dict[str, float]:
        """Set the learning rates of a training step; returns them by the name of the optimizer."""
        steps = config.algo.steps
        risen = min(1.0, config.optim.warmup_steps / steps)
        factor = lr_factor(config.optim, step, progress=step / steps, risen=risen)
        bases = {"actor": config.optim.lr, "critic": config.algo.critic.lr or config.optim.lr}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = bases[name] * factor
        return {name: bases[name] * factor for name in self.optimizers}


def make_actor_critic(config: TrainConfig, world: World) -> ActorCritic:
    """What ``config`` asks for, from the checkpoint ``config.model.path``; every rank must call this.

    Raises:
        UsageError: no checkpoint, or options that do not fit the model.
    """
    assert config.model.path is not None, "train() sees to it"
    model = build_policy(config.model.path, config.model, world)
    critic = None
    if config.algo.needs_critic:
        shared = config.algo.critic.shared
        made = Critic(model, shared=True) if shared else build_critic(config.model.path, config.model, world)
        critic = place_critic(made, config.model, world) if shared else made
    parts = around(model, config, critic=critic)
    if not config.algo.kl.coef:
        return parts
    reference = make_reference(model, config.model.path, config.model, world, like=parts.scorer)
    return ActorCritic(**{**vars(parts), "reference": reference})


def around(model: nn.Module, config: TrainConfig, *, critic: Critic | None = None) -> ActorCritic:
    """Losses and optimizers around a policy and, where there is one, a critic."""
    algo, sampling = config.algo, config.rollout.sampling
    layout = algo.layout or choose_layout(model)
    scorer = Scorer(
        model,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        chunk=algo.head_rows,
        vocab_chunk=algo.head_columns,
        share_prompts=layout == "shared",
    )
    loss = PolicyLoss(
        scorer,
        objective=algo.objective.make(),
        kl=algo.kl.penalty(),
        entropy_coef=algo.entropy_coef,
        correction=algo.correction.make(),
    )
    optimizer = make_optimizer(trainable(model), config.optim)
    if critic is not None and layout == "shared":
        critic.share_prompts()
    return ActorCritic(
        model=model,
        loss=loss,
        layout=layout,
        optimizer=optimizer,
        critic=_critic_parts(critic, config) if critic else None,
    )


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW."""
    return torch.optim.AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


def _critic_parts(critic: Critic, config: TrainConfig) -> CriticParts:
    settings = config.algo.critic
    optim = config.optim.model_copy(update={"lr": settings.lr or config.optim.lr})
    own = trainable(critic.head) if settings.shared else trainable(critic)
    return CriticParts(critic=critic, loss=ValueLoss(critic, clip=settings.clip), optimizer=make_optimizer(own, optim))
