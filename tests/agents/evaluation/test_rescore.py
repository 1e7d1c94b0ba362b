"""Grading a stored run again with several verifiers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.config import EvalConfig
from agents.evaluation.evaluate import evaluate_agent
from agents.evaluation.folder import read_run
from agents.evaluation.played import Played
from agents.evaluation.rescore import STORED, rescore
from agents.evaluation.summary import EvalSummary
from retool_env.cli import main
from retool_env.compose import compose
from retool_env.errors import UsageError
from retool_env.outcome import Outcome
from retool_env.problems import Problem
from retool_env.record import EpisodeRecord
from retool_env.trajectory import Trajectory, append_trajectories
from retool_env.transcript import Span, Transcript
from retool_env.verifier import Verdict, verify

TRANSCRIPT = Transcript(
    token_ids=np.array([1, 2], dtype=np.int64),
    action_mask=np.array([False, True]),
    logprobs=np.array([np.nan, -0.5], dtype=np.float32),
    policy_version=np.array([-1, 0], dtype=np.int64),
    spans=(Span(role="prompt", turn=0, start=0, end=1), Span(role="assistant", turn=0, start=1, end=2)),
)


def episode(
    ticket: int, text: str, gold: str, outcome: Outcome = Outcome.ANSWERED, stored: Verdict | None = None
) -> Trajectory:
    verdict = None if outcome.failed else stored or verify(text, gold)
    record = EpisodeRecord(
        problem=Problem(id=f"p{ticket}", prompt="?", answer=gold),
        outcome=outcome,
        turns=("<code>1</code>", text),
        calls=(),
        verdict=verdict,
        num_action_tokens=1,
    )
    return Trajectory(ticket=ticket, group=ticket, sample=0, record=record, transcript=TRANSCRIPT)


PLAYED = [
    episode(0, r"\boxed{34}", "34"),
    episode(1, r"\boxed{034}", "34"),  # refused by string equality
    episode(2, "Answer: not 34", "34"),  # paid by math-verify, which reads the whole text
    episode(3, r"\boxed{35}", "34"),
    episode(4, r"\boxed{34}", "34", outcome=Outcome.CONTEXT_FULL, stored=Verdict(correct=False, answered=False)),
    episode(5, r"\boxed{34}", "34", outcome=Outcome.SANDBOX_OUTAGE),
    episode(6, r"\boxed{1/2}", "0.5", stored=Verdict(correct=False, answered=True)),  # an older verifier missed it
]


def test_verdicts_side_by_side() -> None:
    rows = rescore(PLAYED, ["retool", "math_verify", "boxed_exact"])
    right = {row.episode.ticket: [row.verdicts[name].correct for name in row.verdicts] for row in rows}
    assert right == {
        0: [True, True, True, True],
        1: [True, True, True, False],
        2: [False, False, True, False],
        3: [False, False, False, False],
        6: [False, True, True, False],
    }
    assert list(rows[0].verdicts) == [STORED, "retool", "math_verify", "boxed_exact"]
    assert [row.episode.ticket for row in rows if row.disputed] == [1, 2, 6]


def test_the_command_prints_disagreements_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trajectories.jsonl"
    append_trajectories(path, PLAYED)
    before = path.read_bytes()
    assert main(["rescore", str(tmp_path), "--verifier", "retool", "--verifier", "boxed_exact"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 of 7 episodes were graded" in out
    assert "disagreements: 2" in out
    assert "1 p1: answer '034', gold '34': stored right (equal), retool right (equal), boxed_exact wrong" in out
    assert "6 p6: answer" in out
    assert main(["rescore", str(path), "--verifier", "retool", "--show", "0"]) == 0
    assert "1 more; --show 1 lists them all" in " ".join(capsys.readouterr().out.split())
    assert path.read_bytes() == before


def test_the_accuracy_is_that_of_the_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a budget cut off is wrong, what infrastructure ended does not count, and problems count alike."""
    agent = ["agent=scripted", r"agent.options={turns: ['\\boxed{7}']}", f"out={tmp_path / 'run'}"]
    sums = ["problems.split=heldout", "problems.families={add: 1}", "problems.size=2", "samples=2"]
    config = compose("eval", EvalConfig, [*agent, *sums])
    evaluate_agent(config)
    episodes = [
        episode(0, r"\boxed{34}", "34"),
        episode(1, r"\boxed{34}", "34", outcome=Outcome.CONTEXT_FULL, stored=Verdict(correct=False, answered=False)),
        episode(2, r"\boxed{34}", "34"),
    ]
    path = tmp_path / "run" / "trajectories.jsonl"
    path.unlink()
    append_trajectories(path, [same_problem(episodes[0]), same_problem(episodes[1]), episodes[2]])
    append_trajectories(tmp_path / "run" / "failures.jsonl", [episode(3, "", "34", outcome=Outcome.ENGINE_OUTAGE)])
    found = EvalSummary.of(read_run(tmp_path / "run"), Played.read(tmp_path / "run")).overall
    assert found is not None and found.accuracy.mean == 0.75  # of the two problems one is half right
    capsys.readouterr()
    assert main(["rescore", str(tmp_path / "run"), "--verifier", "retool"]) == 0
    out = capsys.readouterr().out
    assert "2 of 4 episodes were graded" in out and out.count("75.0%") == 2


def same_problem(trajectory: Trajectory) -> Trajectory:
    problem = trajectory.record.problem.model_copy(update={"id": "p0"})
    return replace(trajectory, record=replace(trajectory.record, problem=problem))


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no verifier 'boxed'; did you mean 'boxed_exact'"):
        rescore(PLAYED, ["boxed"])
    assert main(["rescore", str(tmp_path), "--verifier", "boxed"]) == 2
    assert "no verifier 'boxed'" in capsys.readouterr().err
    assert main(["rescore", str(tmp_path)]) == 2
    assert "no such trajectory file" in capsys.readouterr().err
    assert main(["rescore"]) == 2
    assert main(["rescore", "--help"]) == 0


@pytest.mark.parametrize(
    ("text", "gold", "correct", "reason"),
    [
        (r"\boxed{34}", "34", True, "equal"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True, "equal"),
        (r"\boxed{'34'}", "34", False, "different"),
        (r"\boxed{34}" + "x" * 100, "34", False, "no_marker"),
        (r"\boxed{3", "3", False, "unclosed_box"),
        ("34", "34", False, "no_marker"),
    ],
)
def test_the_strict_box_by_hand(text: str, gold: str, correct: bool, reason: str) -> None:
    (row,) = rescore([episode(0, text, gold)], ["boxed_exact"])
    verdict = row.verdicts["boxed_exact"]
    assert (verdict.correct, verdict.reason) == (correct, reason)
