"""Benchmarks by name: where their files are looked for, where they are published, and what ``retool eval NAME`` means.

Contract: the problems of a benchmark come from ``problems.path``, else from ``NAME.jsonl`` (or .json, .csv, .parquet)
in the folder that RETOOL_DATA names or in ``data/``, else from the Hugging Face hub where the ``[hub]`` extra is
installed. Whatever the file is called, they belong to the source ``NAME``. A benchmark with another number of problems
than it was published with is used, and said.
Left out: downloading files.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from retool_env.errors import UsageError, did_you_mean
from retool_env.sources.layouts import LAYOUTS

__all__ = ["BENCHMARKS", "Benchmark", "dataset_overrides", "find_benchmark", "problem_overrides"]

DATA_VARIABLE: Final = "RETOOL_DATA"
HUB: Final = "hf:"
_SUFFIXES: Final = (".jsonl", ".json", ".csv", ".parquet")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Where a benchmark is published, and how many problems it has; 0 when its name stands for several files."""

    hub: str
    split: str
    num_problems: int = 0


BENCHMARKS: Final = {
    "aime_2024": Benchmark(hub="HuggingFaceH4/aime_2024", split="train", num_problems=30),
    "aime_2025": Benchmark(hub="yentinglin/aime_2025", split="train", num_problems=30),
    "math_500": Benchmark(hub="HuggingFaceH4/MATH-500", split="test", num_problems=500),
    "gsm8k": Benchmark(hub="openai/gsm8k:main", split="test"),
}


def find_benchmark(name: str) -> tuple[str, str]:
    """Path and split of a benchmark whose path was not given.

    Raises:
        UsageError: it is not at hand; says how to get it.
    """
    for path in _places(name):
        if path.is_file():
            return str(path), "train"
    known = BENCHMARKS[name]
    if importlib.util.find_spec("datasets") is not None:
        return f"{HUB}{known.hub}", known.split
    raise UsageError(
        f"problems.path is not set, and there is no data/{name}.jsonl; give a file that you have, or make that one "
        f"where there is a network and the [hub] extra: retool data prepare {HUB}{known.hub} --split {known.split} "
        f"--out data/{name}.jsonl"
    )


def _places(name: str) -> Iterator[Path]:
    folders = [os.environ[DATA_VARIABLE]] if DATA_VARIABLE in os.environ else []
    for folder in (*folders, "data"):
        for suffix in _SUFFIXES:
            yield Path(folder) / f"{name}{suffix}"


def check_number(name: str, path: str, found: int) -> None:
    """Warn when ``path`` cannot be all of the benchmark called ``name``."""
    expected = BENCHMARKS[name].num_problems
    if expected and found != expected:
        _log.warning("%s: %d problems, and %s was published with %d", path, found, name, expected)


def dataset_overrides(name: str) -> list[str]:
    """``retool eval NAME`` as settings: a recipe of ``configs/benchmark``, and the path of a file.

    >>> dataset_overrides("aime_2024")
    ['benchmark=aime_2024']
    >>> dataset_overrides("hf:owner/name")
    ['benchmark=file', 'problems.name=file', 'problems.path=hf:owner/name']

    Raises:
        UsageError: neither a benchmark, nor a layout, nor a file.
    """
    if name in BENCHMARKS or name == "arithmetic":
        return [f"benchmark={name}"]
    return ["benchmark=file", *problem_overrides(name)]


def problem_overrides(name: str) -> list[str]:
    """The problems alone, without the recipe.

    >>> problem_overrides("arithmetic"), problem_overrides("gsm8k")
    (['problems.name=arithmetic', 'problems.split=heldout'], ['problems.name=gsm8k'])

    Raises:
        UsageError: neither a benchmark, nor a layout, nor a file.
    """
    if name == "arithmetic":
        return [f"problems.name={name}", "problems.split=heldout"]
    if name in BENCHMARKS or name in LAYOUTS:
        return [f"problems.name={name}"]
    if name.startswith(HUB) or Path(name).is_file():
        return ["problems.name=file", f"problems.path={name}"]
    known = ["arithmetic", *BENCHMARKS, *LAYOUTS]
    if any(sign in name for sign in "/\\.:"):
        raise UsageError(f"DATASET {name!r}: no such file; give a file, hf:owner/name, or one of {', '.join(known)}")
    raise UsageError(f"DATASET {name!r} is unknown{did_you_mean(name, known)}; or give a file, or hf:owner/name")
