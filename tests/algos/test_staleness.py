"""What reaches the learner, through speeds, failures, pauses and resumes: not too old, not twice, none lost."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algos.batch import Sample
from algos.config import AlgoConfig, RolloutConfig, TrainConfig
from algos.credit import credit
from algos.learn import select
from algos.rollouts import Rollouts, RolloutState
from algos.setup import make_rollouts
from retool_env.config import EnvConfig, ProblemsConfig
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.trajectory import Trajectory
from tests.algos.stamping import BatchedStampingEngine, StampingEngine

ENV = EnvConfig(instructions=False, max_context_tokens=400, max_turn_tokens=60, max_tool_rounds=3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run."""

    staleness: int = 0
    versions: str = "any"
    prompts: int = 2
    group_size: int = 2
    num_slots: int = 4
    steps: int = 4
    seed: int = 0
    mean_seconds: float = 0.0
    failures: float = 0.0
    lockstep: bool = False
    stops: tuple[bool, ...] = ()  # behind step k: killed, and resumed from the last checkpoint
    saves: tuple[bool, ...] = ()  # behind step k: a checkpoint

    @property
    def tickets(self) -> int:
        return self.prompts * self.group_size


CASES = st.builds(
    Case,
    staleness=st.integers(0, 3),
    versions=st.sampled_from(["any", "same"]),
    prompts=st.integers(1, 3),
    group_size=st.integers(2, 3),
    num_slots=st.integers(1, 12),
    steps=st.integers(2, 5),
    seed=st.integers(0, 2**16),
    mean_seconds=st.sampled_from([0.0, 0.002, 0.01]),
    failures=st.sampled_from([0.0, 0.1, 0.4]),
    lockstep=st.booleans(),
    stops=st.tuples(*[st.booleans()] * 4),
    saves=st.tuples(*[st.booleans()] * 4),
)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answer is 1."""
    path = tmp_path_factory.mktemp("problems") / "ones.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {k}?", "answer": "1"}) + "\n" for k in range(7)))
    return path


def config_of(case: Case, problems: Path) -> TrainConfig:
    return TrainConfig(
        seed=case.seed,
        deterministic=case.lockstep,
        problems=ProblemsConfig(name="file", path=str(problems)),
        algo=AlgoConfig(prompts_per_step=case.prompts, group_size=case.group_size, steps=case.steps),
        rollout=RolloutConfig(staleness=case.staleness, group_versions=case.versions, num_slots=case.num_slots),
        env=ENV,
    )


def engine_of(case: Case) -> StampingEngine:
    kind = BatchedStampingEngine if case.lockstep else StampingEngine
    return kind(seed=case.seed, mean_seconds=case.mean_seconds, failures=case.failures)


class Run:
    """A run of a case: what its steps took and what they trained on. A kill drops what is behind the checkpoint."""

    def __init__(self, case: Case, problems: Path) -> None:
        self.case, self.config = case, config_of(case, problems)
        self.taken: list[list[Trajectory]] = []
        self.trained: list[list[Sample]] = []
        self.metrics: list[dict[str, float]] = []
        self.saved = RolloutState().model_dump_json()
        self.saved_at = 0
        self._rng = random.Random(case.seed)

    def play(self) -> None:
        """All steps, with the case's checkpoints and kills."""
        killed_at: set[int] = set()
        while len(self.taken) < self.case.steps:
            self._go_on(killed_at)

    def _go_on(self, killed_at: set[int]) -> None:
        for rows in (self.taken, self.trained, self.metrics):
            del rows[self.saved_at :]
        engine = engine_of(self.case)
        engine.set_version(self.saved_at)
        rollouts = make_rollouts(self.config, ENV, engine)
        try:
            rollouts.load_state_dict(RolloutState.model_validate_json(self.saved))
            rollouts.set_version(self.saved_at)
            for step in range(self.saved_at, self.case.steps):
                self._step(rollouts, engine, step)
                if step < len(self.case.saves) and self.case.saves[step]:
                    self.saved, self.saved_at = rollouts.state_dict().model_dump_json(), step + 1
                if step < len(self.case.stops) and self.case.stops[step] and step not in killed_at:
                    killed_at.add(step)
                    return
        finally:
            rollouts.close()
            engine.close()

    def _step(self, rollouts: Rollouts, engine: StampingEngine, step: int) -> None:
        trajectories = rollouts.collect(step)
        taken = {t.ticket for t in [*(t for row in self.taken for t in row), *trajectories]}
        bound = (1 + self.case.staleness) * self.case.tickets
        assert len(engine.begun - taken) <= bound, "more in flight or waiting than the gate allows"
        scored = select(trajectories, self.config, step=step)
        samples, more = credit(scored, self.config.algo)
        metrics = scored.metrics | more
        self.taken.append(trajectories)
        self.trained.append(samples)
        self.metrics.append(metrics)
        with engine.paused():
            time.sleep(self._rng.choice([0.0, 0.003]))
            engine.set_version(step + 1)
        if step + 1 < self.case.steps:
            rollouts.set_version(step + 1)


def check(run: Run) -> None:
    """Everything that must hold of a finished run."""
    case = run.case
    everything = [t for row in run.taken for t in row]
    assert sorted(t.ticket for t in everything) == list(range(case.steps * case.tickets)), "lost or played twice"
    by_ticket = {t.ticket: t for t in everything}
    for step, (taken, samples, metrics) in enumerate(zip(run.taken, run.trained, run.metrics, strict=True)):
        assert len(taken) == case.tickets
        assert [t.ticket for t in taken] == sorted(t.ticket for t in taken)
        assert {t.group for t in taken} == {t.ticket // case.group_size for t in taken}
        if case.staleness == 0:
            assert [t.ticket for t in taken] == list(range(step * case.tickets, (step + 1) * case.tickets))
        trained = [by_ticket[sample.order] for sample in samples]
        assert {t.ticket for t in trained} <= {t.ticket for t in taken}
        check_ages(trained, step, case)
        failed = sum(t.record.outcome is Outcome.ENGINE_OUTAGE for t in taken)
        assert not any(t.record.outcome.failed for t in trained)
        assert metrics["groups/excluded_samples"] == failed == sum(t.record.reward is None for t in taken)
        if case.staleness == 0:
            assert metrics["groups/withheld_samples"] == 0


def check_ages(trained: list[Trajectory], step: int, case: Case) -> None:
    versions: dict[int, set[int]] = {}
    for t in trained:
        seen = set(t.transcript.policy_version[t.transcript.action_mask].tolist())
        assert step - case.staleness <= min(seen) <= max(seen) <= step
        versions.setdefault(t.group, set()).update(seen)
    if case.versions == "same":
        assert all(len(seen) == 1 for seen in versions.values())


@settings(deadline=None, max_examples=8)
@given(case=CASES)
def test_no_trained_token_is_older_than_the_bound(case: Case, problems: Path) -> None:
    run = Run(case, problems)
    run.play()
    check(run)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(case=CASES)
def test_no_trained_token_is_older_than_the_bound_at_length(case: Case, problems: Path) -> None:
    run = Run(case, problems)
    run.play()
    check(run)


def test_a_straggler_holds_up_no_step_and_is_withheld(problems: Path) -> None:
    """Ticket 1 hangs from version 0 on, until nothing is left but its group."""
    case = Case(staleness=1, steps=3, num_slots=8)
    config = config_of(case, problems)
    engine = StampingEngine(slow=frozenset({1}))
    rollouts = make_rollouts(config, ENV, engine)
    try:
        taken = []
        for step in range(3):
            rollouts.set_version(step)
            engine.set_version(step)
            if step == 2:
                engine.release.set()
            taken.append(rollouts.collect(step))
    finally:
        rollouts.close()
    groups = [{t.group for t in row} for row in taken]
    assert groups[0] == {1, 2}
    assert groups[1] < {3, 4, 5}, "three were on their way together"
    assert groups[2] == {0, 3, 4, 5} - groups[1]
    straggler = taken[2][1]
    assert straggler.ticket == 1
    assert set(straggler.transcript.policy_version[straggler.transcript.action_mask].tolist()) == {0, 2}
    scored = select(taken[2], config, step=2)
    samples, metrics = credit(scored, config.algo)[0], scored.metrics
    assert not {0, 1} & {sample.order for sample in samples}
    assert metrics["groups/withheld_samples"] == 2, "its companion waited for it, and grew old"
    assert metrics["groups/dropped"] == 1


def test_waiting_episodes_travel_and_unfinished_ones_are_played_again(problems: Path) -> None:
    case = Case(staleness=1, steps=3, num_slots=8)
    config = config_of(case, problems)
    engine = StampingEngine(slow=frozenset({1}))
    rollouts = make_rollouts(config, ENV, engine)
    try:
        rollouts.set_version(0)
        first = rollouts.collect(0)
        while len(rollouts.state_dict().waiting) < 3:  # tickets 0, 6 and 7
            time.sleep(0.01)
        state = rollouts.state_dict()
    finally:
        rollouts.close()
        engine.close()
    assert state.feeder is not None
    assert (state.feeder.first, state.feeder.finished) == (1, (2, 3, 4, 5, 6, 7))
    waiting = [Trajectory.from_json(line).ticket for line in state.waiting]
    assert waiting == [0, 6, 7]
    again = StampingEngine()
    again.set_version(1)
    rollouts = make_rollouts(config, ENV, again)
    try:
        rollouts.load_state_dict(RolloutState.model_validate_json(state.model_dump_json()))
        rollouts.set_version(1)
        second = rollouts.collect(1)
    finally:
        rollouts.close()
    assert 1 in again.begun
    assert not again.begun & {0, 2, 3, 4, 5, 6, 7}
    assert len({t.ticket for t in [*first, *second]}) == 8


def test_the_state_of_other_problems_is_refused(problems: Path, tmp_path: Path) -> None:
    case = Case(steps=1)
    rollouts = make_rollouts(config_of(case, problems), ENV, StampingEngine())
    try:
        rollouts.set_version(0)
        rollouts.collect(0)
        state = rollouts.state_dict()
    finally:
        rollouts.close()
    changed = tmp_path / "ones.jsonl"
    changed.write_text(problems.read_text().replace("Question 3?", "Question three?"))
    other = make_rollouts(config_of(case, changed), ENV, StampingEngine())
    with pytest.raises(UsageError, match="are not those that the run began with"):
        other.load_state_dict(state)
    other.close()


@pytest.mark.parametrize("lockstep", [True, False])
def test_a_dead_engine_is_an_outage_of_every_episode(
    problems: Path, lockstep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    case = Case(failures=1.0, staleness=1, steps=2, lockstep=lockstep)
    run = Run(case, problems)
    run.play()
    check(run)
    assert {t.record.outcome for row in run.taken for t in row} == {Outcome.ENGINE_OUTAGE}
    assert run.trained == [[], []]
    assert "injected" in caplog.text
