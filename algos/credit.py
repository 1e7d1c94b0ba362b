"""From the trajectories of a step to samples with advantages.

Three things happen to a trajectory on its way, in this order, and each is counted: infrastructure or the age of its
tokens may keep it out of its group (:mod:`algos.groups`); a filter may keep it out of the loss, though not out of its
group's baseline (:mod:`algos.filters`); its group may say nothing, and then it counts in the loss's denominators like
any other while no model runs on it, unless a KL term or an entropy bonus reads it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from algos.advantages import Episodes
from algos.advantages.episodes import Credit, has_actions
from algos.algo_config import AlgoConfig
from algos.batch import Sample
from algos.batch.sample import Floats
from algos.filters import trains
from algos.groups import differs
from algos.metrics import Metrics
from retool_env.trajectory import Trajectory

__all__ = ["Scored", "credit", "scored_samples"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scored episodes of a step, as samples without advantages; row k of both is one episode."""

    trajectories: list[Trajectory]
    samples: list[Sample]
    metrics: Metrics


def scored_samples(groups: Sequence[Sequence[Trajectory]], algo: AlgoConfig) -> Scored:
    """The scored members of complete groups.

    A group that is left with one member is dropped, unless the estimator compares with something else. With dynamic
    sampling so is one whose members are all right or all wrong, after it has been counted: what the metrics say of
    groups is of all that the step took.

    Args:
        groups: without the members that are withheld.
    """
    least = 2 if algo.baseline == "group" else 1
    members = [[t for t in group if t.scored] for group in groups]
    kept = [scored for scored in members if len(scored) >= least]
    spreads = [np.ptp([t.record.reward for t in scored]) for scored in kept]
    trajectories = [t for scored in kept if differs(scored) or not algo.resample_rounds for t in scored]
    return Scored(
        trajectories=trajectories,
        samples=[_sample(t, algo.mask_tool_tokens) for t in trajectories],
        metrics={
            "groups/zero_spread": float(sum(spread == 0 for spread in spreads)),
            "groups/zero_spread_share": float(np.mean([spread == 0 for spread in spreads])) if spreads else 0.0,
            "groups/dropped": float(len(members) - len(kept)),
            "groups/excluded_samples": float(sum(map(len, groups)) - sum(map(len, members))),
        },
    )


def credit(scored: Scored, algo: AlgoConfig) -> tuple[list[Sample], Metrics]:
    """The samples that count in the loss, with advantages and, where there is a critic, returns.

    Those that no term of the loss reads (``read=False``) have advantage zero or no trained token.

    Args:
        scored: its samples hold ``values`` where the estimator reads them, and ``reference_logprobs`` where a KL
            penalty is taken off the reward.
    """
    samples = scored.samples
    if not samples:
        return [], {}
    episodes = _episodes(scored, algo)
    given = algo.advantage.make()(episodes)
    filtered = [
        not trains(t.record, mask_overlong=algo.mask_overlong, mask_void=algo.mask_void) for t in scored.trajectories
    ]
    read = has_actions(episodes) if algo.reads_all_samples else given.used
    rows = [_with(samples[k], given, k, read=bool(read[k])) for k, out in enumerate(filtered) if not out]
    metrics = {"groups/filtered_samples": float(sum(filtered)), "groups/unused_samples": float((~given.used).sum())}
    for name, attribute in (("advantages", "advantage"), ("returns", "returns"), ("values", "values")):
        metrics |= _spread(f"critic/{name}", rows, attribute)
    return rows, metrics | _ends("critic/rewards", episodes.total_rewards) | _parts(episodes, algo)


def _sample(trajectory: Trajectory, mask_tool_tokens: bool) -> Sample:
    transcript = trajectory.transcript
    trained = np.isfinite(transcript.logprobs)
    if not mask_tool_tokens:
        trained = np.arange(len(transcript)) >= transcript.prompt_length
    return Sample(
        token_ids=transcript.token_ids,
        trained=trained,
        behaviour_logprobs=transcript.logprobs,
        order=trajectory.ticket,
        group=trajectory.group,
    )


def _episodes(scored: Scored, algo: AlgoConfig) -> Episodes:
    samples, records = scored.samples, [t.record for t in scored.trajectories]
    has_values = all(sample.values is not None for sample in samples)
    kl = [_kl(sample) for sample in samples] if algo.kl.reward_coef else None
    first = records[0].reward_parts
    return Episodes(
        rewards=np.array([record.reward for record in records], dtype=np.float64),
        groups=np.array([sample.group for sample in samples]),
        trained=[sample.trained for sample in samples],
        parts={
            part.name: np.array([r.reward_parts[k].raw for r in records], dtype=np.float64)
            for k, part in enumerate(first)
        },
        part_weights={part.name: part.weight for part in first},
        values=[np.asarray(sample.values, dtype=np.float64) for sample in samples] if has_values else None,
        kl=kl,
        kl_coef=algo.kl.reward_coef,
    )


def _kl(sample: Sample) -> np.typing.NDArray[np.float64]:
    """The behaviour's log-probability minus the reference's; 0 where the behaviour is unknown."""
    assert sample.reference_logprobs is not None, "the learner has scored the reference"
    gap = sample.behaviour_logprobs.astype(np.float64) - sample.reference_logprobs
    return np.where(np.isfinite(gap), gap, 0.0)


def _with(sample: Sample, given: Credit, k: int, *, read: bool) -> Sample:
    returns = given.returns[k] if given.returns is not None else None
    return replace(sample, advantage=given.advantages[k], returns=returns, read=read)


def _spread(prefix: str, rows: Sequence[Sample], name: str) -> Metrics:
    """Mean, maximum and minimum over the trained tokens, whether a model reads them or not."""
    if not any(row.num_trained for row in rows) or getattr(rows[0], name) is None:
        return {}
    return _ends(prefix, np.concatenate([np.broadcast_to(getattr(s, name), s.trained.shape)[s.trained] for s in rows]))


def _ends(prefix: str, values: Floats) -> Metrics:
    ends = {"mean": values.mean(), "max": values.max(), "min": values.min()}
    return {f"{prefix}/{end}": float(value) for end, value in ends.items()}


def _parts(episodes: Episodes, algo: AlgoConfig) -> Metrics:
    """What gdpo standardises, under verl's names."""
    if algo.advantage.name != "gdpo":
        return {}
    ends = [_ends(f"gdpo/{part}", values) for part, values in episodes.parts.items()]
    return {name: value for part in ends for name, value in part.items()}
