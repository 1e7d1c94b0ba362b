"""Where problems come from: procedural generators, files, data sets on the hub, and mixtures of them.

:func:`open_source` opens any of them. A reader checks every row when it opens the file, so that a bad row is named
before anything runs; a row whose gold answer cannot be graded is dropped, listed in the source and counted in a
warning, and so is a question that came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from retool_env.errors import UsageError, did_you_mean
from retool_env.feeder import ProblemSource
from retool_env.problems import Problem
from retool_env.sources.golds import Dropped

if TYPE_CHECKING:
    from retool_env.sources.rates import Difficulty

__all__ = ["Dropped", "ListSource", "Split", "open_source"]

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True)
class ListSource:
    """Problems held in memory.

    Attributes:
        dropped: those of the file that were left out because nothing could be graded against them.
        num_rows: rows of the file that were read for it; 0 when there is no file.
        num_repeats: rows that were left out because their question came before.
        ordered: the order means something; a feeder does not shuffle it.
    """

    name: str
    problems: Sequence[Problem] = field(repr=False)
    dropped: Sequence[Dropped] = ()
    num_rows: int = 0
    num_repeats: int = 0
    ordered: bool = False

    @property
    def size(self) -> int:
        return len(self.problems)

    def problem(self, index: int) -> Problem:
        return self.problems[index]


def open_source(
    name: str = "arithmetic",
    *,
    path: str | Path | None = None,
    layout: str | None = None,
    split: str = "train",
    seed: int = 0,
    size: int | None = None,
    families: Mapping[str, float] | None = None,
    unique: bool = True,
    rates: str | None = None,
    band: Sequence[float] | None = None,
    curriculum: bool = False,
    parts: Sequence[Mapping[str, Any]] = (),
) -> ProblemSource:
    """The source called ``name``.

    >>> source = open_source("arithmetic", split="heldout", size=10, families={"gcd": 1})
    >>> source.size, source.problem(0).family
    (10, 'gcd')

    Args:
        name: ``arithmetic``, ``file``, ``mixture``, a benchmark (``aime_2024``; see :mod:`.benchmarks`), a layout
            (``gsm8k``): a file of that layout, or your own: ``path/to/file.py:Class`` (see :mod:`.own`).
        path: a file, or ``hf:owner/name`` for a data set on the hub.
        layout: of the file; ``None`` to find it out (see :mod:`retool_env.sources.layouts`).
        split: ``train`` or ``heldout`` of a procedural source; any split of a data set on the hub.
        seed: of a procedural source and of a mixture; the held-out set of a size is the same for every seed of a run.
        size: first so many problems (of those with a gold that can be graded); ``None`` for all of a file, or an
            endless source.
        families: weights of a procedural source's families; ``None`` for equal ones.
        unique: leave out the questions of a file that came before.
        rates: bank of measured pass rates (``retool data rates``).
        band: only problems with a pass rate between these two.
        curriculum: easy problems first.
        parts: of a mixture: the arguments of this function, and ``weight`` (1 when it is not given).

    Raises:
        UsageError: an unknown name, or what the reader says.
    """
    from retool_env.sources.benchmarks import BENCHMARKS
    from retool_env.sources.layouts import LAYOUTS
    from retool_env.sources.rates import difficulty

    chosen = difficulty(rates=rates, band=band, curriculum=curriculum)
    if name == "file" or name in LAYOUTS or name in BENCHMARKS:
        return _file(name, path, layout or (name if name in LAYOUTS else None), split, size, unique, chosen)
    _check_fileless(name, path)
    if name == "mixture":
        source = _mixture(parts, seed, size)
    elif name == "arithmetic":
        source = _arithmetic(split, seed, size, families)
    else:
        source = _own(name, split, seed, size, chosen)
    return _chosen(chosen, source)


def _check_fileless(name: str, path: str | Path | None) -> None:
    """Refuse a name that nothing has, and a path for a source that reads no file."""
    from retool_env.sources.benchmarks import BENCHMARKS
    from retool_env.sources.layouts import LAYOUTS
    from retool_env.sources.own import installed_sources, is_own

    if name not in ("arithmetic", "mixture") and not is_own(name):
        known = ("arithmetic", "file", "mixture", *BENCHMARKS, *LAYOUTS, *installed_sources())
        raise UsageError(f"problems={name!r} is unknown{did_you_mean(name, known)}; or give path/to/file.py:Class")
    if path is not None:
        raise UsageError(f"problems.path={str(path)!r}: problems={name} reads no file; add problems=file")


def _chosen(chosen: Difficulty, source: ProblemSource) -> ProblemSource:
    if isinstance(source, ListSource):
        return chosen.among(source)
    if chosen.bank[0]:
        raise UsageError(f"problems={source.name!r} never ends, and has no pass rates to choose by; set problems.size")
    return source


def _file(
    name: str,
    path: str | Path | None,
    layout: str | None,
    split: str,
    size: int | None,
    unique: bool,
    chosen: Difficulty,
) -> ProblemSource:
    from retool_env.sources.benchmarks import BENCHMARKS, check_number, find_benchmark
    from retool_env.sources.file import read_source

    benchmark = name in BENCHMARKS
    if path is None and benchmark:
        path, split = find_benchmark(name)
    if path is None:
        raise UsageError(f"problems.path is not set; problems={name} needs a file, e.g. problems.path=test.jsonl")
    source = read_source(
        str(path),
        name=name,
        layout=layout,
        split=split,
        size=size,
        unique=unique,
        difficulty=chosen,
        source=name if benchmark else "",
    )
    if benchmark and size is None and not chosen.bank[0]:
        check_number(name, str(path), source.size)
    return source


def _arithmetic(split: str, seed: int, size: int | None, families: Mapping[str, float] | None) -> ProblemSource:
    from retool_env.sources.arithmetic import ArithmeticSource, fixed_set

    half: Split = "heldout" if split == "heldout" else "train"
    if split not in get_args(Split):
        raise UsageError(f"problems.split={split!r}: problems=arithmetic has {' and '.join(get_args(Split))}")
    if size is not None:
        return fixed_set(size, split=half, seed=seed, families=families)
    return ArithmeticSource(split=half, seed=seed, families=families)


def _own(name: str, split: str, seed: int, size: int | None, chosen: Difficulty) -> ProblemSource:
    from retool_env.sources.own import own_source

    source = own_source(name, split=split, seed=seed, size=size)
    if source.size is None or not chosen.bank[0]:
        return source
    return ListSource(name=source.name, problems=tuple(map(source.problem, range(source.size))))


def _mixture(parts: Sequence[Mapping[str, Any]], seed: int, size: int | None) -> ProblemSource:
    from retool_env.sources.mixture import MixtureSource, Part

    opened = [
        Part(
            source=open_source(**{key: value for key, value in part.items() if key != "weight"}),
            weight=float(part.get("weight", 1.0)),
        )
        for part in parts
    ]
    source = MixtureSource(parts=tuple(opened), seed=seed)
    if size is None:
        return source
    return ListSource(name="mixture", problems=tuple(source.problem(index) for index in range(size)))
