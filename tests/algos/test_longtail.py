"""A slow tool holds up nobody else (see ``benchmarks/longtail.py``, whose code this is)."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "longtail.py"


@pytest.mark.slow
def test_a_long_tail_of_tool_latencies_is_overlapped() -> None:
    """Ratios of times that are nearly all sleep. The bar is the benchmark's; here neighbours get some room."""
    benchmark = runpy.run_path(str(BENCHMARK))
    rounds = benchmark["measure_rounds"](4)
    collector = benchmark["measure_collector"](12, 2)
    print(rounds, collector, sep="\n")
    assert collector.share >= 2.5 * rounds.share
