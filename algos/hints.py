"""What single episodes and timings of a run show that its averages do not: a likely cause, with an example.

Each function looks at one step and returns one line, or ``""``. They are asked by :class:`algos.alarms.Alarms`.
Left out: everything that has a metric of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from algos.metrics import Metrics
from retool_env.outcome import ToolStatus
from retool_env.terminal import shorten
from retool_env.trajectory import Trajectory

__all__ = ["other_format", "where_time_goes"]

_STAGES: Final = {
    "gen": "sampling and tools",
    "adv": "scoring and advantages",
    "update_actor": "the update",
    "update_weights": "new weights for who samples",
}


def other_format(trajectories: Sequence[Trajectory]) -> str:
    """Rewards that compare a tool's output with the expected line, and never find it: both, from one episode.

    Nothing where no such reward is given, no call has succeeded, or some output is what was expected.
    """
    example = ""
    for trajectory in trajectories:
        parts = {part.name: part.raw for part in trajectory.record.reward_parts}
        if "tool_partial" not in parts:
            return ""
        if parts["tool_partial"] == 1.0:
            return ""
        worked = [call for call in trajectory.record.calls if call.status is ToolStatus.OK]
        if worked and not example:
            said, wanted = shorten(worked[-1].text, 80), shorten(trajectory.record.problem.answer, 80)
            example = f"a tool said {said!r} where the answer column has {wanted!r}"
    return example


def where_time_goes(metrics: Metrics) -> str:
    """The stages of a step by their share of its time, those above a tenth, and what an episode waits for tools."""
    total = metrics.get("timing_s/step", 0.0)
    if not total:
        return ""
    shares = {words: metrics.get(f"timing_s/{stage}", 0.0) / total for stage, words in _STAGES.items()}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    told = ", ".join(f"{share:.0%} {words}" for words, share in ordered if share > 0.1)
    tools = metrics.get("timing_s/agent_loop/tool_calls/mean", 0.0)
    return f"a step takes {total:.1f} s: {told}; an episode waits {tools:.2f} s for its tools" if told else ""
