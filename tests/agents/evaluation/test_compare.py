"""Two runs on the same problems: the numbers against scipy, by simulation, and what the command prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation.compare import compare_runs, main
from agents.stats.paired import difference_interval, sign_test
from retool_env.cli import main as retool
from retool_env.errors import UsageError
from retool_env.outcome import Outcome, ToolStatus
from retool_env.record import CallRecord
from retool_env.trajectory import append_trajectories
from tests.agents.episodes import make_episode

NUM_PROBLEMS, NUM_RUNS = 30, 2000


def write_run(path: Path, rights: Sequence[Sequence[bool | None]], *, gold: str = "7") -> Path:
    """A run folder: for each problem its samples, right, wrong or (``None``) ended by infrastructure."""
    flat = [(problem, right) for problem, row in enumerate(rights) for right in row]
    episodes = [
        make_episode(
            f"p{problem}",
            right=bool(right),
            gold=gold,
            ticket=ticket,
            outcome=Outcome.ENGINE_OUTAGE if right is None else Outcome.ANSWERED,
        )
        for ticket, (problem, right) in enumerate(flat)
    ]
    append_trajectories(path / "trajectories.jsonl", episodes)
    return path


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 0), (3, 9), (12, 12), (40, 17), (300, 250)])
def test_the_sign_test_equals_scipy(better: int, worse: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    expected = stats.binomtest(better, better + worse, 0.5).pvalue if better + worse else 1.0
    assert sign_test(better, worse) == pytest.approx(expected, rel=1e-9)


def test_mcnemars_exact_test_is_the_same() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables", reason="statsmodels is the oracle")
    assert sign_test(9, 3) == pytest.approx(tables.mcnemar([[10, 9], [3, 8]], exact=True).pvalue)


def test_for_many_samples_the_interval_is_the_paired_t_interval() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    differences = np.random.default_rng(0).normal(0.1, 0.2, 30).tolist()
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    # Up to the divisor of the variance, n here and n - 1 there.
    assert difference_interval(differences, k=10**9) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_one_sample_is_the_interval_of_agresti_and_min() -> None:
    """Of 30 problems 7 won and 3 lost, with half a problem added to each cell of the table: their formula by hand."""
    differences = [1.0] * 7 + [-1.0] * 3 + [0.0] * 20
    low, high = difference_interval(differences, k=1)
    assert (low + high) / 2 == pytest.approx((7.5 - 3.5) / 32)
    error = np.sqrt((7.5 + 3.5) - (7.5 - 3.5) ** 2 / 32) / 32
    assert (high - low) / 2 == pytest.approx(2.0452296 * error)


def same(random: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return chances


def shifted(random: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return np.clip(chances + chances * (1 - chances), 0, 1)


def drawn_anew(random: np.random.Generator, chances: np.ndarray) -> np.ndarray:
    return random.permuted(chances, axis=1)


@pytest.mark.parametrize("k", [1, 4, 32])
@pytest.mark.parametrize("change", [same, shifted, drawn_anew])
@pytest.mark.parametrize("betas", [(0.5, 0.5), (2, 2), (0.5, 10)])
def test_the_interval_covers(
    betas: tuple[float, float], change: Callable[[np.random.Generator, np.ndarray], np.ndarray], k: int
) -> None:
    random = np.random.default_rng(3)
    chances = random.beta(*betas, size=(NUM_RUNS, NUM_PROBLEMS))
    changed = change(random, chances)
    truth = float((changed - chances).mean())
    differences = (random.binomial(k, changed) - random.binomial(k, chances)) / k
    found = np.array([difference_interval(row, k=k) for row in differences.tolist()])
    assert np.mean((found[:, 0] <= truth) & (truth <= found[:, 1])) >= 0.93


def test_no_difference_is_no_certainty() -> None:
    low, high = difference_interval([0.0] * 30, k=1)
    assert low < -0.05 and high > 0.05


def test_counts_and_flips(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [[True], [True], [False], [False], [True]])
    b = write_run(tmp_path / "b", [[True], [False], [True], [True], [True]])
    found = compare_runs(a, b)
    assert found.counts is not None
    assert (found.counts.both, found.counts.only_first, found.counts.only_second, found.counts.neither) == (2, 1, 2, 0)
    assert [pair.problem for pair in found.pairs if pair.flipped] == ["p1", "p2", "p3"]
    assert found.difference == pytest.approx(0.2)
    assert (found.num_better, found.num_worse, found.sign_p) == (2, 1, 1.0)


def test_failed_samples_are_left_out_and_problems_without_any_are_named(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [[True, None], [True, False], [None, None]])
    b = write_run(tmp_path / "b", [[True, True], [True, True], [True, True]])
    found = compare_runs(a, b)
    assert [(p.problem, p.first, p.num_first) for p in found.pairs] == [("p0", 1.0, 1), ("p1", 0.5, 2)]
    assert found.left_out == ("p2",)
    assert found.counts is None


def test_an_episode_that_was_played_again_counts_once(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [[None], [True]])
    append_trajectories(a / "trajectories.jsonl", [make_episode("p0", right=True, ticket=0)])
    found = compare_runs(a, write_run(tmp_path / "b", [[True], [True]]))
    assert (found.first, found.left_out) == (1.0, ())


def test_other_problems_are_refused_and_named(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [[True]] * 3)
    b = write_run(tmp_path / "b", [[True]] * 9)
    with pytest.raises(UsageError, match=r"6 only in the second: 'p3', 'p4', 'p5', 'p6', 'p7', \.\.\."):
        compare_runs(a, b)
    other = write_run(tmp_path / "other", [[True]] * 3, gold="8")
    with pytest.raises(UsageError, match=r"3 with another gold answer: 'p0', 'p1', 'p2'"):
        compare_runs(a, other)
    failed = write_run(tmp_path / "failed", [[None]] * 3)
    with pytest.raises(UsageError, match="no problem has a scored sample in both runs"):
        compare_runs(a, failed)


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", [[False, False], [True, True], [True, True]])
    b = write_run(tmp_path / "b", [[True, True], [True, False], [True, True]])
    assert main([str(a), str(b), "--show", "1"]) == 0
    printed = capsys.readouterr().out
    assert "66.7%" in printed and "83.3%" in printed and "+16.7" in printed
    assert "0/2 -> 2/2  p0" in printed
    assert "1 more; --show 2 lists them all" in printed


def test_rewards_calls_and_tokens_are_compared_by_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is the oracle")
    call = CallRecord(turn=0, name="code_interpreter", code="3 + 4", status=ToolStatus.OK, text="7")
    lengths = {"a": [[4, 6], [3, 3], [9, 1]], "b": [[4, 4], [1, 3], [2, 2]]}
    for run, rows in lengths.items():
        samples = [(problem, length) for problem, row in enumerate(rows) for length in row]
        episodes = [
            make_episode(
                f"p{problem}", right=run == "b", ticket=ticket, turns=("x" * length,), calls=[call] * (run == "a")
            )
            for ticket, (problem, length) in enumerate(samples)
        ]
        append_trajectories(tmp_path / run / "trajectories.jsonl", episodes)
    means = {row.name: row for row in compare_runs(tmp_path / "a", tmp_path / "b").means}
    calls, tokens = means["tool calls"], means["sampled tokens"]
    assert (means["reward"].first, means["reward"].second) == (-1.0, 1.0)
    assert (calls.first, calls.second, calls.interval) == (1.0, 0.0, (-1.0, -1.0))
    assert (tokens.first, tokens.second) == pytest.approx((13 / 3, 8 / 3))
    expected = stats.ttest_rel([4, 2, 2], [5, 3, 5]).confidence_interval(0.95)
    assert tokens.interval == pytest.approx((expected.low, expected.high))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "-1.667" in capsys.readouterr().out


def test_one_problem_has_no_interval_of_its_tokens(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", [[True]])
    assert all(row.interval is None for row in compare_runs(run, run).means)


def test_json_holds_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a", [[False], [True]]), write_run(tmp_path / "b", [[True], [True]])
    assert main([str(a), str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["difference"] == 0.5
    assert [(row["problem"], row["difference"], row["flipped"]) for row in found["pairs"]] == [
        ("p0", 1.0, True),
        ("p1", 0.0, False),
    ]


def test_it_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", [[True]])
    assert retool(["compare", str(a), str(a / "trajectories.jsonl")]) == 0
    assert retool(["compare", str(a), str(tmp_path / "none")]) == 2
    assert "no such trajectory file" in capsys.readouterr().err
