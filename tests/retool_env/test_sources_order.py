"""Which problem comes when: mixtures, bands and curricula by measured rates, and going on where a run stopped."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retool_env.compose import compose
from retool_env.config import ProblemsConfig
from retool_env.errors import UsageError
from retool_env.feeder import Feeder
from retool_env.problems import Problem
from retool_env.sources import ListSource, open_source
from retool_env.sources.arithmetic import ArithmeticSource
from retool_env.sources.mixture import BLOCK, MixtureSource, Part


def listed(name: str, size: int) -> ListSource:
    problems = [Problem(id=f"{name}/{k}", prompt=f"{name} {k}?", answer=str(k), source=name) for k in range(size)]
    return ListSource(name=name, problems=tuple(problems))


def mixed(weights: Sequence[float], sizes: Sequence[int], seed: int = 0) -> MixtureSource:
    parts = [Part(source=listed(f"p{k}", n), weight=w) for k, (w, n) in enumerate(zip(weights, sizes, strict=True))]
    return MixtureSource(parts=parts, seed=seed)


def write_file(path: Path, count: int) -> Path:
    rows = [{"prompt": f"{path.stem} {k}?", "answer": str(k)} for k in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rates(path: Path, rates: dict[str, tuple[int, int]]) -> str:
    rows = [{"id": name, "successes": won, "attempts": of} for name, (won, of) in rates.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=5)


@settings(deadline=None)
@given(weights=WEIGHTS, seed=st.integers(0, 2**40), data=st.data())
def test_a_problem_of_a_mixture_depends_on_seed_and_number_alone(
    weights: list[float], seed: int, data: st.DataObject
) -> None:
    sizes = [data.draw(st.integers(1, 30)) for _ in weights]
    asked = data.draw(st.lists(st.integers(0, 5 * BLOCK), min_size=1, max_size=20))
    one, other = mixed(weights, sizes, seed), mixed(weights, sizes, seed)
    expected = {index: one.problem(index) for index in asked}
    assert [other.problem(index) for index in reversed(asked)] == [expected[index] for index in reversed(asked)]


@settings(deadline=None)
@given(weights=WEIGHTS)
def test_the_shares_of_a_block_are_the_weights(weights: list[float]) -> None:
    source = mixed(weights, [7] * len(weights))
    counts = Counter(source.problem(index).source for index in range(3 * BLOCK, 4 * BLOCK))
    for k, weight in enumerate(weights):
        assert abs(counts[f"p{k}"] - BLOCK * weight / sum(weights)) <= len(weights)
        assert counts[f"p{k}"] > 0


def test_a_part_is_played_through_before_a_problem_comes_again() -> None:
    source = mixed([3, 1], [40, 10])
    drawn: dict[str, list[str]] = {"p0": [], "p1": []}
    for index in range(2 * BLOCK):
        problem = source.problem(index)
        drawn[problem.source].append(problem.id)
    for name, size in (("p0", 40), ("p1", 10)):
        passes = [drawn[name][start : start + size] for start in range(0, len(drawn[name]) - size, size)]
        assert all(len(set(one)) == size for one in passes)
        assert len(passes) > 10 and passes[0] != passes[1]
    other = mixed([3, 1], [40, 10], seed=1)
    assert [other.problem(k) for k in range(50)] != [source.problem(k) for k in range(50)]


def test_weight_zero_is_never_drawn_and_endless_parts_go_on() -> None:
    endless = Part(source=ArithmeticSource(seed=5), weight=1)
    source = MixtureSource(parts=[Part(source=listed("never", 3), weight=0), endless])
    assert [source.problem(k) for k in range(1200)] == [endless.source.problem(k) for k in range(1200)]


def test_mixtures_that_cannot_work() -> None:
    for weights in ([0.0], [-1.0, 2.0], [float("inf")]):
        with pytest.raises(UsageError, match=r"problems\.parts: weights"):
            mixed(weights, [1] * len(weights))
    with pytest.raises(UsageError, match=r"problems\.parts is empty"):
        open_source("mixture")
    with pytest.raises(UsageError, match="parts 0 and 1 both have a problem 'a/0'"):
        MixtureSource(parts=[Part(source=listed("a", 1), weight=1), Part(source=listed("a", 2), weight=1)])


def test_a_mixture_on_the_command_line(tmp_path: Path) -> None:
    from algos.config import TrainConfig

    one, two = write_file(tmp_path / "one.jsonl", 4), write_file(tmp_path / "two.jsonl", 6)
    parts = f"[{{name: file, path: '{one}', weight: 3}}, {{name: plain, path: '{two}', size: 2}}]"
    config = compose("train", TrainConfig, ["problems=mixture", f"problems.parts={parts}", "problems.seed=7"])
    source = open_source(**config.problems.model_dump())
    assert source.size is None
    sources = Counter(source.problem(index).source for index in range(BLOCK))
    assert sources == {"one": 750, "two": 250}
    assert len({source.problem(index).id for index in range(BLOCK)}) == 6
    finite = open_source(**ProblemsConfig(**{**config.problems.model_dump(), "size": 9}).model_dump())
    assert finite.size == 9
    assert [finite.problem(k) for k in range(9)] == [source.problem(k) for k in range(9)]
    with pytest.raises(UsageError, match=r"unknown key 'problems\.parts\.0\.wight'; did you mean 'weight'\?"):
        compose("train", TrainConfig, ["problems.parts=[{wight: 3}]"])


def test_a_band_keeps_what_is_neither_too_easy_nor_too_hard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_file(tmp_path / "f.jsonl", 6)
    shares = {f"f/{k}": (k, 4) for k in range(5)}  # 0, 1/4, ... 1; the sixth was never measured
    rates = write_rates(tmp_path / "rates.jsonl", shares)
    with caplog.at_level(logging.WARNING):
        source = open_source("file", path=path, rates=rates, band=[0.25, 0.75])
    assert [source.problem(k).id for k in range(source.size or 0)] == ["f/1", "f/2", "f/3"]
    assert "3 problems are outside of problems.band=[0.25, 0.75], or not measured" in caplog.text
    assert open_source("file", path=path, rates=rates, band=[0.25, 0.75], size=2).size == 2
    write_rates(tmp_path / "rates.jsonl", shares | {"f/5": (2, 4)})
    assert open_source("file", path=path, rates=rates, band=[0.25, 0.75]).size == 4  # a bank that grew counts at once


def test_a_curriculum_goes_from_easy_to_hard_and_is_not_shuffled(tmp_path: Path) -> None:
    path = write_file(tmp_path / "f.jsonl", 5)
    rates = write_rates(tmp_path / "r.jsonl", {"f/0": (1, 8), "f/1": (8, 8), "f/2": (0, 8), "f/4": (3, 8)})
    source = open_source("file", path=path, rates=rates, curriculum=True)
    feeder = Feeder(source, shuffle=True, group_size=2)
    asked = [feeder.ticket(index).problem.id for index in range(20)]
    assert asked[::2] == ["f/1", "f/4", "f/0", "f/2", "f/3"] * 2  # what was never measured comes last


def test_rates_of_procedural_problems() -> None:
    with pytest.raises(UsageError, match=r"problems\.rates is not set; problems\.band and problems\.curriculum"):
        open_source(size=10, band=[0, 1])


MISTAKES = [
    ({"band": [0.5, 0.4]}, "problems.band=[0.5, 0.4]: expected [lowest, highest], between 0 and 1"),
    ({"band": [0.9, 1.0]}, "none is left"),
    ({"band": [0, 1], "rates": "missing.jsonl"}, "'missing.jsonl': no such file"),
    ({"curriculum": True, "rates": "bad.jsonl"}, 'bad.jsonl:1: {"id": "a", "successes": 3, "attempts": 2} is'),
    ({"band": [0, 1], "name": "arithmetic", "path": None}, "never ends, and has no pass rates to choose by"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes_about_rates(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rates(Path("bad.jsonl"), {"a": (3, 2)})
    given_options = {"name": "file", "path": write_file(Path("f.jsonl"), 2), "rates": "good.jsonl", **options}
    write_rates(Path("good.jsonl"), {"f/0": (1, 2)})
    with pytest.raises(UsageError) as error:
        open_source(**given_options)
    assert message in str(error.value)


def finish(feeder: Feeder, index: int) -> None:
    """What the environment does at the end of an episode; the feeder passes episode and record on unread."""
    feeder.on_end(feeder.ticket(index), SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    size=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 2**40),
    group_size=st.integers(1, 4),
    shuffle=st.booleans(),
    num_slots=st.integers(1, 5),
    first=st.integers(0, 20),
    finished=st.sets(st.integers(0, 30), max_size=25),
)
def test_a_resumed_run_plays_exactly_what_is_left(
    size: int | None, seed: int, group_size: int, shuffle: bool, num_slots: int, first: int, finished: set[int]
) -> None:
    source = ArithmeticSource(seed=seed) if size is None else listed("p", size)
    options: dict[str, Any] = {"seed": seed, "group_size": group_size, "shuffle": shuffle}
    whole = Feeder(source, first=first, num_tickets=60, **options)
    done = {first + index for index in finished}
    for index in sorted(done, reverse=True):
        finish(whole, index)
    resumed = Feeder(source, num_tickets=60, **options)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    played = sorted((t for s in range(num_slots) for t in resumed.slot(s, num_slots)), key=lambda t: t.index)
    assert played == [whole.ticket(index) for index in range(first, 60) if index not in done]
    # And what it hands on is the same again.
    assert resumed.state_dict() == whole.state_dict()
    for ticket in played:
        finish(resumed, ticket.index)
    assert resumed.state_dict()["first"] == 60
    assert not resumed.state_dict()["finished"]


def test_another_run_is_refused() -> None:
    state = Feeder(listed("p", 5), seed=1, group_size=2).state_dict()
    with pytest.raises(UsageError, match=r"problems of .* are not those that the run began with"):
        Feeder(listed("q", 5), seed=1, group_size=2).load_state_dict(state)
    with pytest.raises(UsageError, match=r"\(seed, group_size, shuffle differ\)"):
        Feeder(listed("p", 5), seed=2, group_size=3, shuffle=True).load_state_dict(state)
    with pytest.raises(UsageError, match="not the state of a feeder"):
        Feeder(listed("p", 5)).load_state_dict({"step": 3})
