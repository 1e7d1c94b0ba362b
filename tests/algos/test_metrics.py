"""What the log says about rewards: every part raw and weighted, and accuracy that no reward can move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from algos.metrics import num_passes, rollout_metrics
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from retool_env.rewards import make_reward
from retool_env.trajectory import Trajectory
from retool_env.transcript import Span, Transcript
from retool_env.verifier import Verdict

TRANSCRIPT = Transcript(
    token_ids=np.array([1, 2], dtype=np.int64),
    action_mask=np.array([False, True]),
    logprobs=np.array([np.nan, -0.5], dtype=np.float32),
    policy_version=np.array([-1, 0], dtype=np.int64),
    spans=(Span(role="prompt", turn=0, start=0, end=1), Span(role="assistant", turn=0, start=1, end=2)),
)


def played(reward: object, *ends: tuple[bool | None, Outcome]) -> list[Trajectory]:
    scorer = make_reward(reward)  # type: ignore[arg-type]
    trajectories = []
    for ticket, (correct, outcome) in enumerate(ends):
        answered = outcome is Outcome.ANSWERED
        reason = "timeout" if outcome is Outcome.ANSWERED and not correct else "equal" if correct else "no_marker"
        verdict = None if correct is None else Verdict(correct=correct, answered=answered, reason=reason)
        record = EpisodeRecord(
            problem=Problem(id="p", prompt="?", answer="1"),
            outcome=outcome,
            turns=("x",),
            calls=(),
            verdict=verdict,
            num_action_tokens=1,
        )
        one = Trajectory(ticket=ticket, group=0, sample=ticket, record=scorer.score(record), transcript=TRANSCRIPT)
        trajectories.append(one)
    return trajectories


RIGHT, WRONG = (True, Outcome.ANSWERED), (False, Outcome.ANSWERED)
NOTHING, FAILED = (False, Outcome.NO_ANSWER), (None, Outcome.SANDBOX_OUTAGE)


def test_each_part_is_logged_raw_and_weighted() -> None:
    metrics = rollout_metrics(played({"pm1": 1.0, "format": 0.1}, RIGHT, WRONG, NOTHING, FAILED))
    assert metrics["reward/mean"] == pytest.approx((1.1 - 0.9 - 1.0) / 3)
    assert metrics["reward_raw/pm1/mean"] == pytest.approx(-1 / 3)
    assert metrics["reward_raw/format/mean"] == pytest.approx(2 / 3)
    assert metrics["reward_weighted/format/mean"] == pytest.approx(0.2 / 3)
    assert metrics["reward_raw/format/std"] == pytest.approx(np.std([1, 1, 0]))
    assert metrics["accuracy/mean"] == pytest.approx(1 / 3)
    assert (metrics["num_failed"], metrics["num_unscored"]) == (1.0, 1.0)
    assert metrics["verifier/timeouts"] == pytest.approx(1 / 3)
    assert not [name for name in metrics if name.endswith("reads_tool_results")]


def test_the_entropy_of_rollouts_is_of_what_was_sampled() -> None:
    """One token of each scored episode was sampled, with log-probability -0.5; the prompt has none."""
    assert rollout_metrics(played("pm1", RIGHT, WRONG))["rollout_entropy/mean"] == 0.5


def test_accuracy_does_not_depend_on_the_reward() -> None:
    ends = (RIGHT, WRONG, NOTHING)
    values = {rollout_metrics(played(name, *ends))["accuracy/mean"] for name in ("pm1", "strategic", "tool_partial")}
    assert values == {1 / 3}


def test_an_unscored_episode_is_counted_and_left_out() -> None:
    metrics = rollout_metrics(played({"pm1": 1.0, "void_turn": {"drop": 1}}, RIGHT, NOTHING))
    assert (metrics["num_failed"], metrics["num_unscored"], metrics["reward/mean"]) == (0.0, 1.0, 1.0)


def test_a_pass_is_done_with_the_last_group_of_it() -> None:
    (one,) = played("pm1", (True, Outcome.ANSWERED))
    steps = [[replace(one, group=g) for g in range(first, first + 5)] for first in (0, 5, 10, 16)]
    assert [num_passes(step, 10) for step in steps] == [0, 1, 1, 2]


def test_a_part_that_reads_tool_results_is_labelled() -> None:
    assert rollout_metrics(played("tool_partial", RIGHT))["reward_raw/tool_partial/reads_tool_results"] == 1.0
