"""A run says what goes wrong, once, with its cause; a healthy run says nothing."""

from __future__ import annotations

from dataclasses import replace

from algos.alarms import Alarms
from algos.hints import other_format, where_time_goes
from retool_env.outcome import ToolStatus
from retool_env.record import CallRecord, RewardPart
from retool_env.trajectory import Trajectory
from tests.agents.episodes import make_episode

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


def test_episodes_that_are_cut() -> None:
    cut = said(*[{"response_length/clip_ratio": 0.6}] * 6)
    assert cut[:4] == [[]] * 4 and cut[5] == []
    assert "raise env.max_turn_tokens" in cut[4][0]


def test_steps_that_are_too_large() -> None:
    assert "lower optim.lr" in said(*[{"actor/pg_clipfrac": 0.4}] * 5)[4][0]
    assert said(*[{"actor/pg_clipfrac": 0.4}] * 4, {"actor/pg_clipfrac": 0.1}) == [[]] * 5


def rewards(*, begin: float, end: float, accuracy: float = 0.5) -> list[dict[str, float]]:
    """Fifty steps on a straight line, with noise that is the same at both ends."""
    line = [begin + (end - begin) * k / 49 + 0.02 * (-1) ** k for k in range(50)]
    return [{"reward/mean": value, "accuracy/mean": accuracy} for value in line]


def test_a_reward_that_does_not_rise() -> None:
    flat = said(*rewards(begin=-0.5, end=-0.5), {})
    assert flat[48] == [] and flat[50] == []
    assert "has not risen in 50 steps (-0.50, now -0.50)" in flat[49][0]
    assert "smaller algo.kl.coef" in flat[49][0]
    assert said(*rewards(begin=-0.5, end=0.5)) == [[]] * 50
    assert said(*rewards(begin=0.9, end=0.9, accuracy=0.97)) == [[]] * 50, "nothing is left to learn"
    assert said(*[{}] * 50) == [[]] * 50, "no reward is known"


def told(text: str, answer: str, status: ToolStatus = ToolStatus.OK, raw: float = 0.1) -> Trajectory:
    """An episode whose one call said ``text`` where the data expect ``answer``."""
    call = CallRecord(turn=0, name="add", code="", status=status, text=text)
    episode = make_episode("p", right=False, gold=answer, calls=(call,))
    part = RewardPart(name="tool_partial", raw=raw, weight=1.0, reads_tool_results=True)
    return replace(episode, record=replace(episode.record, reward_parts=(part,)))


def test_outputs_in_another_format_than_the_data_expect() -> None:
    alarms = Alarms(has_tools=True, tolerance=1e-4)
    episodes = [told("Error: no", "Sum: 42", ToolStatus.BAD_ARGUMENTS), told("Sum: 42.0", "Sum: 42")]
    first, second, third, fourth = (alarms.look(HEALTHY, episodes) for _ in range(4))
    assert (first, second, fourth) == ([], [], [])
    assert "a tool said 'Sum: 42.0' where the answer column has 'Sum: 42'" in third[0]
    assert other_format([*episodes, told("Sum: 42", "Sum: 42", raw=1.0)]) == "", "one of them fits"
    assert other_format([]) == ""


def test_where_the_time_goes() -> None:
    metrics = {
        "timing_s/step": 10.0,
        "timing_s/gen": 7.0,
        "timing_s/update_actor": 2.5,
        "timing_s/adv": 0.5,
        "timing_s/agent_loop/tool_calls/mean": 0.25,
    }
    assert where_time_goes(metrics) == (
        "a step takes 10.0 s: 70% sampling and tools, 25% the update; an episode waits 0.25 s for its tools"
    )
    assert where_time_goes({}) == ""
