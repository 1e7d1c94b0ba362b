"""Numbers of a training step, computed from its trajectories; names follow verl where it has one.

``num_turns`` counts as verl does: 1 for the prompt, plus assistant turns, plus tool turns. ``response_length`` is of
all tokens behind the prompt, what tools said included; ``num_action_tokens`` of those that the policy wrote.
``rollout_entropy`` is the mean of minus the log-probability of the sampled tokens: an estimate of the policy's entropy
that is of the same tokens whatever is trained on, unlike ``actor/entropy``. A family that did not occur in a step has
no entry: an absent number is never 0. Accuracy is counted from verdicts, never from rewards. ``docs/metrics.md`` has
every name; :mod:`algos.call_metrics` counts calls and seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev

import numpy as np

from agents.stats import Sample, statistics, summarise, verl_metrics
from algos.call_metrics import Metrics, call_metrics, shares, time_metrics
from algos.filters import CUT_BY_LENGTH
from retool_env.outcome import Outcome
from retool_env.record import RewardPart
from retool_env.trajectory import Trajectory
from retool_env.verifier import Verdict

__all__ = ["Metrics", "age_metrics", "eval_metrics", "num_passes", "rollout_metrics"]


def rollout_metrics(trajectories: Sequence[Trajectory]) -> Metrics:
    """Reward, accuracy, tool use, lengths and outcomes of the episodes of one step."""
    scored = [t for t in trajectories if t.scored]
    judged = [t for t in trajectories if t.record.verdict is not None]
    metrics: Metrics = {
        **_mean_and_std("reward", [t.record.reward for t in scored if t.record.reward is not None]),
        **_mean("accuracy/mean", scored, lambda t: float(t.record.correct)),
        **_range("critic/score", scored, lambda t: t.record.reward or 0.0),
        **_mean("tool_use/mean", scored, lambda t: float(t.record.num_tool_calls > 0)),
        **_range("tool_call_counts", scored, lambda t: t.record.num_tool_calls),
        **_range("num_turns", scored, lambda t: len(t.transcript.spans)),
        **_range("prompt_length", scored, lambda t: t.transcript.prompt_length),
        **_lengths("response_length", trajectories),
        **_lengths("response_length_non_aborted", [t for t in trajectories if not t.record.outcome.failed]),
        **_mean("response/aborted_ratio", trajectories, lambda t: float(t.record.outcome.failed)),
        **_mean("num_action_tokens/mean", scored, lambda t: t.record.num_action_tokens),
        **_mean("void_turns/mean", scored, lambda t: t.record.num_void_turns),
        **_mean("answered/mean", scored, lambda t: float(t.record.outcome is Outcome.ANSWERED)),
        **_mean("verifier/symbolic", judged, lambda t: float(_verdict(t).method == "symbolic")),
        **_mean("verifier/timeouts", judged, lambda t: float(_verdict(t).reason in ("timeout", "crash"))),
        "num_episodes": float(len(trajectories)),
        "num_failed": float(sum(t.record.outcome.failed for t in trajectories)),
        "num_unscored": float(len(trajectories) - len(scored)),
    }
    if surprises := _surprises(scored):
        metrics["rollout_entropy/mean"] = fmean(surprises)
    for part in sorted({p.name for t in scored for p in t.record.reward_parts}):
        metrics |= _part_metrics(part, [p for t in scored for p in t.record.reward_parts if p.name == part])
    for family in sorted({t.record.problem.family for t in scored} - {""}):
        members = [t for t in scored if t.record.problem.family == family]
        metrics |= _mean(f"accuracy/{family}", members, lambda t: float(t.record.correct))
        metrics |= _mean(f"tool_rate/{family}", members, lambda t: float(t.record.num_tool_calls > 0))
    outcomes = shares("outcome", Outcome, (t.record.outcome for t in trajectories))
    return metrics | outcomes | call_metrics(trajectories) | time_metrics(trajectories)


def age_metrics(trajectories: Sequence[Trajectory], *, version: int) -> Metrics:
    """Age of the sampled tokens of scored episodes: ``version``, which is trained, minus the version that sampled."""
    versions = [t.transcript.policy_version for t in trajectories if t.scored]
    ages = [version - v for row in versions for v in row[row >= 0].tolist()]
    return {"staleness/mean": fmean(ages), "staleness/max": float(max(ages))} if ages else {}


def num_passes(trajectories: Sequence[Trajectory], num_problems: int) -> int:
    """Whole passes over the problems that are done with these trajectories: groups take the problems in order, again
    and again, and the first group is 0."""
    return (max(t.group for t in trajectories) + 1) // num_problems


def eval_metrics(trajectories: Sequence[Trajectory]) -> Metrics:
    """Accuracy and tool rate, overall and by family, under ``eval/``; and all that verl's validation logs, by data set,
    under its names (``val-core/SOURCE/acc/mean@K``)."""
    samples = [Sample.of(trajectory) for trajectory in trajectories]
    metrics: Metrics = {}
    for source in sorted({sample.source for sample in samples}):
        metrics |= verl_metrics(statistics([sample for sample in samples if sample.source == source]))
    metrics |= {f"val-aux/num_turns/{k}": v for k, v in _ends([s.num_turns for s in samples if not s.outcome.failed])}
    for summary in summarise(trajectories):
        suffix = f"/{summary.family}" if summary.family else ""
        metrics[f"eval/accuracy{suffix}"] = summary.accuracy.mean
        metrics[f"eval/tool_rate{suffix}"] = summary.tool_rate.mean
    return metrics


def _mean(name: str, rows: Sequence[Trajectory], value: Callable[[Trajectory], float]) -> Metrics:
    return {name: fmean(value(row) for row in rows)} if rows else {}


def _range(name: str, rows: Sequence[Trajectory], value: Callable[[Trajectory], float]) -> Metrics:
    values = [float(value(row)) for row in rows]
    return {f"{name}/mean": fmean(values), f"{name}/max": max(values), f"{name}/min": min(values)} if rows else {}


def _surprises(trajectories: Sequence[Trajectory]) -> list[float]:
    """Minus the log-probability of every token that a policy sampled, under the distribution that it came from."""
    return [-p for t in trajectories for p in t.transcript.logprobs[np.isfinite(t.transcript.logprobs)].tolist()]


def _lengths(name: str, rows: Sequence[Trajectory]) -> Metrics:
    """Tokens behind the prompt, and how many episodes a length limit cut."""
    cut = _mean(f"{name}/clip_ratio", rows, lambda t: float(t.record.outcome in CUT_BY_LENGTH))
    return _range(name, rows, lambda t: len(t.transcript) - t.transcript.prompt_length) | cut


def _ends(values: Sequence[float]) -> list[tuple[str, float]]:
    found = {"min": min(values), "max": max(values), "mean": fmean(values)} if values else {}
    return [(name, float(value)) for name, value in found.items()]


def _verdict(trajectory: Trajectory) -> Verdict:
    assert trajectory.record.verdict is not None
    return trajectory.record.verdict


def _mean_and_std(name: str, values: Sequence[float]) -> Metrics:
    return {f"{name}/mean": fmean(values), f"{name}/std": pstdev(values)} if values else {}


def _part_metrics(name: str, parts: Sequence[RewardPart]) -> Metrics:
    """One part of the reward, raw and weighted; a part that looks at tool output is marked as one."""
    raw = [part.raw for part in parts if part.raw is not None]
    weighted = [part.weighted for part in parts if part.weighted is not None]
    metrics = _mean_and_std(f"reward_raw/{name}", raw) | _mean_and_std(f"reward_weighted/{name}", weighted)
    if any(part.reads_tool_results for part in parts):
        metrics[f"reward_raw/{name}/reads_tool_results"] = 1.0
    return metrics
