"""Where the time of a training step goes, under verl's names: ``timing_s/gen``, ``timing_s/step``, ``perf/throughput``.

These are time fields: they differ between two runs of one seed (:func:`agents.run_folder.is_time`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from algos.metrics import Metrics

__all__ = ["Timing"]


class Timing:
    """The stages of one step; stages may be entered more than once, and within each other."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._seconds = defaultdict[str, float](float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what runs inside towards ``timing_s/NAME``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def metrics(self, *, num_tokens: int, num_sampled: int, num_ranks: int) -> Metrics:
        """Seconds per stage and in all, milliseconds of a stage per token, and tokens per second and rank.

        Args:
            num_tokens: of all trajectories of the step, prompts included.
            num_sampled: of these the policy's; what generating is divided by.
        """
        seconds = time.perf_counter() - self._begun
        stages = {f"timing_s/{name}": value for name, value in self._seconds.items()}
        per_token = {
            f"timing_per_token_ms/{name}": 1000 * value / max(1, num_sampled if name == "gen" else num_tokens)
            for name, value in self._seconds.items()
        }
        return (
            stages
            | per_token
            | {
                "timing_s/step": seconds,
                "perf/time_per_step": seconds,
                "perf/total_num_tokens": float(num_tokens),
                "perf/throughput": num_tokens / seconds / num_ranks,
            }
        )
