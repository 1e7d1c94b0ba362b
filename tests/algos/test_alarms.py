"""A run says what goes wrong, once, with its cause; a healthy run says nothing."""

from __future__ import annotations

from algos.alarms import Alarms

HEALTHY = {
    "tool_use/mean": 0.6,
    "num_failed": 0.0,
    "num_episodes": 100.0,
    "logprob_gap/max": 1e-6,
    "groups/zero_spread": 4.0,
    "groups/total": 20.0,
    "accuracy/mean": 0.5,
}


def said(*steps: dict[str, float], has_tools: bool = True) -> list[list[str]]:
    alarms = Alarms(has_tools=has_tools, tolerance=1e-4)
    return [alarms.look(HEALTHY | step) for step in steps]


def test_a_healthy_run_is_quiet() -> None:
    assert said(*[{}] * 10) == [[]] * 10


def test_calls_that_never_parse() -> None:
    (one, two, three, four) = said(*[{"tool_use/mean": 0.0, "tool_status/malformed": 1.0}] * 4)
    assert (one, two, four) == ([], [], []), "after three steps, and once"
    assert "none could be parsed; is env.dialect" in three[0]
    assert "none was tried" in said(*[{"tool_use/mean": 0.0}] * 3)[2][0]
    assert said(*[{"tool_use/mean": 0.0}] * 3, has_tools=False) == [[]] * 3


def test_tool_use_that_collapses() -> None:
    quiet, loud = said({"tool_use/mean": 0.5}, {"tool_use/mean": 0.01})
    assert quiet == []
    assert "from 50% of its episodes to 1%" in loud[0]


def test_failures_gap_and_skipped_updates() -> None:
    assert "10% of this step's episodes" in said({"num_failed": 10.0})[0][0]
    assert "differ by 0.3 in a log-probability" in said({"logprob_gap/max": 0.3})[0][0]
    assert "differ by nan" in said({"logprob_gap/max": float("nan")})[0][0]
    assert "not a finite number" in said({"num_skipped_updates": 1.0})[0][0]


def test_groups_that_never_differ() -> None:
    easy = said(*[{"groups/zero_spread": 20.0, "accuracy/mean": 0.99}] * 5)
    assert easy[:4] == [[]] * 4
    assert "too easy" in easy[4][0]
    assert "too hard" in said(*[{"groups/zero_spread": 20.0, "accuracy/mean": 0.0}] * 5)[4][0]
