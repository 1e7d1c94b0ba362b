"""Numbers of evaluations, and how far they can be trusted.

Purpose: what is reported about a run, from stored trajectories alone. ``docs/statistics.md`` says what each number
estimates and why its interval is the one it is.

- ``intervals``: a mean over problems with its 95 % interval.
- ``at_k``: pass@k, best@k, worst@k and maj@k of one problem.
- ``samples``: one episode as the numbers see it.
- ``benchmark``: everything about one run on one data set, also under verl's names.
- ``paired``: two runs on the same problems.
- ``summary``: accuracy and tool use by family, for training runs.

Episodes that infrastructure ended are counted and never scored. Numpy only.
"""

from __future__ import annotations

from agents.stats.at_k import best_at_k, majority_at_k, pass_at_k, worst_at_k
from agents.stats.benchmark import AtK, Statistics, statistics, verl_metrics
from agents.stats.intervals import Estimate, Interval, estimate, wilson
from agents.stats.paired import Paired, ProblemPair, pair_runs
from agents.stats.samples import Sample, in_one_unit, latest, run_file
from agents.stats.summary import Summary, summarise, summarise_samples

__all__ = [
    "AtK",
    "Estimate",
    "Interval",
    "Paired",
    "ProblemPair",
    "Sample",
    "Statistics",
    "Summary",
    "best_at_k",
    "estimate",
    "in_one_unit",
    "latest",
    "majority_at_k",
    "pair_runs",
    "pass_at_k",
    "run_file",
    "statistics",
    "summarise",
    "summarise_samples",
    "verl_metrics",
    "wilson",
    "worst_at_k",
]
