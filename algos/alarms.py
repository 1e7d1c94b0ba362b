"""What a run says by itself when it goes wrong in one of the known ways, once each, with the usual cause.

Alarms end nothing. What ends a run is ``algo.max_failed_share``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from statistics import fmean, variance
from typing import Final

from algos.hints import other_format
from algos.metrics import Metrics
from retool_env.trajectory import Trajectory

__all__ = ["Alarms"]

FIRST: Final = 3
"""Steps after which a dialect that never parses is called that, and a tool whose output is never what was expected."""
WINDOW: Final = 5
PATIENCE: Final = 50
"""Steps in which a reward should have risen."""
ENDS: Final = 10
"""Steps at both ends of these whose means are compared."""


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
        self._rewards: list[float] = []
        self._said: set[str] = set()

    def look(self, metrics: Metrics, trajectories: Sequence[Trajectory] = ()) -> list[str]:
        """What there is to say after a step that has not been said before."""
        self._recent.append(metrics)
        self._rewards.append(metrics.get("reward/mean", math.nan))
        self._num_steps += 1
        self._most_use = max(self._most_use, metrics.get("tool_use/mean", 0.0))
        found = [*self._found(metrics), *self._progress(metrics, trajectories)]
        new = [(name, text) for name, text in found if name not in self._said]
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

    def _progress(self, metrics: Metrics, trajectories: Sequence[Trajectory]) -> Iterator[tuple[str, str]]:
        """What keeps a reward from rising."""
        if self._num_steps == FIRST and (example := other_format(trajectories)):
            yield (
                "format",
                f"no tool output is what the data expect; {example}: the comparison is exact but for case and spaces "
                "at the ends",
            )
        if len(self._recent) < WINDOW:
            return
        if all(row.get("response_length/clip_ratio", 0.0) > 0.5 for row in self._recent):
            yield (
                "cut",
                f"in {WINDOW} steps more than half of the episodes were cut by a limit before they answered; raise "
                "env.max_turn_tokens or env.max_context_tokens, or leave them out with algo.mask_overlong=true",
            )
        if all(row.get("actor/pg_clipfrac", 0.0) > 0.3 for row in self._recent):
            yield (
                "stride",
                f"in {WINDOW} steps the clip held back more than 30% of the tokens (actor/pg_clipfrac): the policy "
                "moves too far in a step; lower optim.lr, algo.epochs or algo.minibatches",
            )
        if self._num_steps == PATIENCE and not self._risen() and metrics.get("accuracy/mean", 0.0) < 0.9:
            first, last = fmean(self._rewards[:ENDS]), fmean(self._rewards[-ENDS:])
            yield (
                "flat",
                f"the mean reward has not risen in {PATIENCE} steps ({first:.2f}, now {last:.2f}): try a larger "
                "optim.lr, a smaller algo.kl.coef, more samples (algo.group_size), or easier problems (problems.band)",
            )

    def _risen(self) -> bool:
        """The last steps are better than the first by more than two standard errors."""
        first, last = self._rewards[:ENDS], self._rewards[-ENDS:]
        error = math.sqrt((variance(first) + variance(last)) / ENDS)
        return not fmean(last) - fmean(first) <= 2 * error

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
