"""One training step: from trajectories to new weights that the engine samples from.

In order: what must not be trained on is left out and counted; values and reference are scored where the advantage reads
them; advantages; the trainer's own and the reference's log-probabilities where the loss reads them; then
``algo.epochs`` passes of ``algo.minibatches`` optimizer steps. How new weights reach the engine is behind
:class:`algos.sync.base.WeightSync`.

On several ranks every rank comes here with all trajectories of the step and trains on its share of them, so that
advantages, denominators and the plan of the batches are those of one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from torch import nn

from algos.actor_critic import ActorCritic
from algos.batch import Sample
from algos.batch.sample import Floats
from algos.config import TrainConfig
from algos.credit import Scored, credit, scored_samples
from algos.groups import split, withhold
from algos.losses import select_covariant
from algos.metrics import Metrics, age_metrics, rollout_metrics
from algos.per_token import per_token
from algos.policy.world import World
from algos.sync.base import WeightSync
from algos.timing import Timing
from algos.update import update
from algos.value import explained_variance
from retool_env.errors import InfrastructureError
from retool_env.seeding import derive
from retool_env.trajectory import Trajectory

__all__ = ["Learner", "select", "stop_if_broken"]

Kind = Literal["values", "reference_logprobs", "proximal_logprobs"]
STAGES: Final[dict[Kind, str]] = {
    "values": "values",
    "reference_logprobs": "ref",
    "proximal_logprobs": "old_log_prob",
}


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Trains one step after the other.

    Attributes:
        parts: what learns.
        config: of the run.
        world: the ranks.
        sync: brings the weights to the engine; ``None`` when there is none.
    """

    parts: ActorCritic
    config: TrainConfig
    world: World
    sync: WeightSync | None = None

    def learn(self, trajectories: Sequence[Trajectory], *, step: int, timing: Timing | None = None) -> Metrics:
        """Train on the trajectories of a step, and publish version ``step + 1``.

        Args:
            trajectories: whole groups, in ticket order; on every rank all of them.
            step: the version that is trained.
            timing: gets the stages.

        Returns:
            The step's metrics.

        Raises:
            InfrastructureError: more episodes failed than ``algo.max_failed_share``.
        """
        stop_if_broken(trajectories, self.config.algo.max_failed_share)
        timing = timing or Timing()
        rates = self.parts.set_progress(step, self.config)
        samples, metrics = self.samples(trajectories, step=step, timing=timing)
        metrics |= {
            **{f"{name}/lr": rate for name, rate in rates.items()},
            "num_samples": float(sum(sample.read for sample in samples)),
            "num_tokens/trained": float(sum(sample.num_trained for sample in samples if sample.read)),
        }
        metrics |= update(self.parts, samples, self.config, self.world, step=step, sync=self.sync, timing=timing)
        every = self.config.algo.kl.refresh_every
        if self.parts.reference is not None and every and (step + 1) % every == 0:
            self.parts.reference.refresh()
        return metrics

    def samples(self, trajectories: Sequence[Trajectory], *, step: int, timing: Timing) -> tuple[list[Sample], Metrics]:
        """What counts in a step's losses, with everything that they read, and the metrics of all that it took."""
        algo, sampling = self.config.algo, self.config.rollout.sampling
        scored = select(trajectories, self.config, step=step)
        # Without a nucleus the engine's log-probabilities are those of what it sampled from; with one they have to be
        # computed here.
        restricted = sampling.top_p < 1 or sampling.top_k > 0
        before = [
            *(["values"] if algo.needs_critic else []),
            *(["reference_logprobs"] if algo.kl.reward_coef else []),
            *(["proximal_logprobs"] if restricted else []),
        ]
        ready = self._score(scored.samples, before, timing)  # type: ignore[arg-type]
        if restricted:
            ready = [_as_sampled(sample) for sample in ready]
        with timing.stage("adv"):
            counted, more = credit(replace(scored, samples=ready), algo)
        behind = [
            *(["reference_logprobs"] if algo.kl.penalty() else []),
            *(["proximal_logprobs"] if algo.needs_proximal else []),
        ]
        rows = [sample for sample in counted if sample.read]
        rows = self._score(rows, behind, timing)  # type: ignore[arg-type]
        if algo.selects_tokens and rows:
            seed = derive(self.config.seed, "covariance", step)
            rows = select_covariant(rows, share=algo.covariance.share, band=algo.covariance.band, seed=seed)
        if algo.needs_critic and rows:
            more["critic/vf_explained_var"] = explained_variance(rows)
        return rows + [sample for sample in counted if not sample.read], scored.metrics | more

    def _score(self, samples: Sequence[Sample], kinds: Sequence[Kind], timing: Timing) -> list[Sample]:
        """The samples with these arrays, each rank having scored its share."""
        modules: dict[Kind, nn.Module | None] = {
            "values": self.parts.critic.critic if self.parts.critic else None,
            "reference_logprobs": self.parts.reference,
            "proximal_logprobs": self.parts.scorer,
        }
        algo, out = self.config.algo, list(samples)
        most = algo.score_tokens or algo.micro_batch_tokens
        for kind in kinds if out else ():
            module = modules[kind]
            assert module is not None, f"{kind} has a module"
            with timing.stage(STAGES[kind]):
                rows = per_token(module, out, max_tokens=most, layout=self.parts.layout, world=self.world)
            out = [_with_array(sample, kind, row) for sample, row in zip(out, rows, strict=True)]
        return out


def _with_array(sample: Sample, kind: Kind, row: Floats) -> Sample:
    """The sample with one of its optional arrays."""
    if kind == "values":
        return replace(sample, values=row)
    if kind == "reference_logprobs":
        return replace(sample, reference_logprobs=row)
    return replace(sample, proximal_logprobs=row)


def _as_sampled(sample: Sample) -> Sample:
    """The sample with what the trainer computed in place of what the engine said."""
    assert sample.proximal_logprobs is not None, "it has been scored"
    return replace(sample, behaviour_logprobs=sample.proximal_logprobs, proximal_logprobs=None)


def select(trajectories: Sequence[Trajectory], config: TrainConfig, *, step: int) -> Scored:
    """The scored samples that a step may train on, and the metrics of everything that it took.

    Args:
        trajectories: whole groups, in ticket order.
        step: the version that is trained.
    """
    algo, rollout = config.algo, config.rollout
    groups = [
        withhold(group, version=step, max_age=rollout.staleness, versions=rollout.group_versions)
        for group in split(trajectories)
    ]
    kept = [trajectory for group in groups for trajectory in group]
    scored = scored_samples(groups, algo)
    metrics = rollout_metrics(trajectories) | age_metrics(kept, version=step) | scored.metrics
    metrics |= {"groups/total": float(len(groups)), "groups/withheld_samples": float(len(trajectories) - len(kept))}
    return replace(scored, metrics=metrics)


def stop_if_broken(trajectories: Sequence[Trajectory], max_share: float) -> None:
    """Raise :class:`InfrastructureError` when more than ``max_share`` of the episodes failed."""
    failed = Counter(str(t.record.outcome) for t in trajectories if t.record.outcome.failed)
    if failed.total() > max_share * len(trajectories):
        causes = ", ".join(f"{name} {count}" for name, count in failed.most_common())
        raise InfrastructureError(
            f"{failed.total()} of {len(trajectories)} episodes of this step failed ({causes}), more than "
            f"algo.max_failed_share={max_share:g}; repair it and go on with resume=true"
        )
