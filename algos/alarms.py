"""What a run says by itself when it goes wrong in one of the known ways, once each, with the usual cause.

Alarms end nothing. What ends a run is ``algo.max_failed_share``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from algos.metrics import Metrics

__all__ = ["Alarms"]

FIRST: Final = 3
"""Steps after which a dialect that never parses is called that."""
WINDOW: Final = 5


class Alarms:
    """Looks at the metrics of every step.

    Args:
        has_tools: the environment has some.
        tolerance: of log-probabilities between engine and trainer.
    """

    def __init__(self, *, has_tools: bool, tolerance: float) -> None:
        self._has_tools, self._tolerance = has_tools, tolerance
        self._recent: deque[Metrics] = deque(maxlen=WINDOW)
        self._num_steps, self._most_use = 0, 0.0
        self._said: set[str] = set()

    def look(self, metrics: Metrics) -> list[str]:
        """What there is to say after a step that has not been said before."""
        self._recent.append(metrics)
        self._num_steps += 1
        self._most_use = max(self._most_use, metrics.get("tool_use/mean", 0.0))
        new = [(name, text) for name, text in self._found(metrics) if name not in self._said]
        self._said |= {name for name, _ in new}
        return [text for _, text in new]

    def _found(self, metrics: Metrics) -> Iterator[tuple[str, str]]:
        yield from self._tools(metrics)
        failed = metrics.get("num_failed", 0.0) / max(1.0, metrics.get("num_episodes", 1.0))
        if failed > 0.05:
            yield (
                "failures",
                f"{failed:.0%} of this step's episodes were ended by infrastructure, not by the policy; see the "
                "outcome/* metrics and the sandbox's and servers' logs",
            )
        gap = metrics.get("logprob_gap/max", 0.0)
        if not gap <= self._tolerance:
            yield (
                "gap",
                f"engine and trainer differ by {gap:.2g} in a log-probability (expected at most {self._tolerance:g}): "
                "they do not compute the same policy; look at dtype, kernels, tokenizer and weight updates, or set "
                "algo.correction.weight_cap=2",
            )
        if metrics.get("num_skipped_updates", 0.0):
            yield (
                "nonfinite",
                "a loss or gradient was not a finite number; the update was skipped (num_skipped_updates)",
            )
        full = len(self._recent) == WINDOW
        if full and all(row["groups/zero_spread"] > 0.9 * row["groups/total"] for row in self._recent):
            share = metrics.get("accuracy/mean", 0.0)
            yield (
                "spread",
                f"in {WINDOW} steps hardly a group differed in its rewards (accuracy {share:.0%}), so nothing is "
                f"learnt: the problems are too {'easy' if share > 0.5 else 'hard'}; choose others (problems.band), set "
                "algo.resample_rounds, or begin with a cold start",
            )

    def _tools(self, metrics: Metrics) -> Iterator[tuple[str, str]]:
        if not self._has_tools:
            return
        use = metrics.get("tool_use/mean", 0.0)
        if self._num_steps == FIRST and not self._most_use:
            bad = metrics.get("tool_status/malformed", 0.0)
            cause = (
                "calls were tried and none could be parsed; is env.dialect the one the model was trained in"
                if bad
                else "none was tried; does the prompt show the tools, and did a cold start teach the format"
            )
            yield "parse", f"no tool call has run in the first {FIRST} steps: {cause}?"
        if self._most_use > 0.2 and use < 0.02:
            yield (
                "collapse",
                f"the policy has stopped calling tools (from {self._most_use:.0%} of its episodes to {use:.0%}); a "
                "price on calls, failing calls or a broken sandbox teach that",
            )
