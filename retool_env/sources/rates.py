"""How hard problems are: the bank of measured pass rates, and what is chosen by it.

A bank is a JSONL file with ``{"id": ..., "successes": 3, "attempts": 8}`` a line, written by ``retool data rates`` from
the episodes of any run. A band keeps the problems of a certain difficulty, because one that is always or never solved
teaches nothing; a curriculum puts the easy ones first.

Contract: problems are joined by id. One that was never measured is outside of every band, and last in a curriculum.
Left out: rates that change in the course of a run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, model_validator

from retool_env.data.tables import read_table, write_table
from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.sources import ListSource
from retool_env.sources.golds import Dropped

__all__ = ["Difficulty", "Rate", "difficulty", "read_rates", "write_rates"]

_log = logging.getLogger(__name__)
NEVER = -1.0
"""The share of a problem that was never measured: outside of every band, behind every rate."""


class Rate(BaseModel):
    """How often a problem was solved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    successes: NonNegativeInt
    attempts: PositiveInt

    @model_validator(mode="after")
    def _no_more_than_tried(self) -> Rate:
        if self.successes > self.attempts:
            raise ValueError(f"{self.successes} successes of {self.attempts} attempts")
        return self

    @property
    def share(self) -> float:
        return self.successes / self.attempts

    def __add__(self, other: Rate) -> Rate:
        return Rate(id=self.id, successes=self.successes + other.successes, attempts=self.attempts + other.attempts)


def read_rates(path: Path) -> dict[str, Rate]:
    """The bank of a file; lines of one problem add up.

    Raises:
        UsageError: no such file, or a line that is no rate.
    """
    rates: dict[str, Rate] = {}
    for number, row in read_table(path):
        try:
            rate = Rate.model_validate(row)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(
                f"{path}:{number}: {json.dumps(row, default=str)[:60]} is no rate ({message}); expected id, successes "
                "and attempts"
            ) from error
        rates[rate.id] = rates[rate.id] + rate if rate.id in rates else rate
    return rates


def write_rates(path: Path, rates: Mapping[str, Rate]) -> None:
    """Write a bank, in the order of the mapping."""
    write_table(path, (rate.model_dump() for rate in rates.values()))


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """What to choose by measured rates; made by :func:`difficulty`.

    Attributes:
        band: lowest and highest pass rate, both included; ``None`` for all.
        curriculum: easy problems first.
        bank: the file of the rates, and its time of change.
        shares: pass rates by problem.
    """

    band: tuple[float, float] | None = None
    curriculum: bool = False
    bank: tuple[str, int] = ("", 0)
    shares: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    def within(self, problems: Iterable[Problem | Dropped], *, where: str) -> Iterator[Problem | Dropped]:
        """The problems in the band, and everything that was dropped before.

        Raises:
            UsageError: none is in it.
        """
        inside = outside = 0
        for one in problems:
            keep = isinstance(one, Dropped) or self._admits(one)
            inside, outside = inside + keep, outside + (not keep)
            if keep:
                yield one
        if outside:
            told = f"{where}: {outside} problems are outside of problems.band={list(self.band or ())}, or not measured"
            if not inside:
                raise UsageError(f"{told}; none is left")
            _log.warning("%s", told)

    def among(self, source: ListSource) -> ListSource:
        """The source with only the problems in the band, in the order of the curriculum.

        Raises:
            UsageError: none is in the band.
        """
        inside = [one for one in self.within(source.problems, where=source.name) if isinstance(one, Problem)]
        return self.ordered(replace(source, problems=tuple(inside)))

    def ordered(self, source: ListSource) -> ListSource:
        """The source in the order of the curriculum, if there is one."""
        if not self.curriculum:
            return source
        easy_first = sorted(source.problems, key=lambda problem: -self.shares.get(problem.id, NEVER))
        return replace(source, problems=tuple(easy_first), ordered=True)

    def _admits(self, problem: Problem) -> bool:
        share = self.shares.get(problem.id, NEVER)
        return self.band is None or self.band[0] <= share <= self.band[1]


def difficulty(
    *, rates: str | None = None, band: Sequence[float] | None = None, curriculum: bool = False
) -> Difficulty:
    """The choice that a configuration describes.

    Raises:
        UsageError: a band or a curriculum without a bank, or a band that holds nothing.
    """
    if band is None and not curriculum:
        return Difficulty()
    if rates is None:
        raise UsageError(
            "problems.rates is not set; problems.band and problems.curriculum need pass rates, which "
            "`retool data rates RUN --out FILE` measures"
        )
    if band is not None and not (len(band) == 2 and 0 <= band[0] <= band[1] <= 1):
        raise UsageError(f"problems.band={list(band)}: expected [lowest, highest], between 0 and 1")
    shares = {name: rate.share for name, rate in read_rates(Path(rates)).items()}
    limits = None if band is None else (band[0], band[1])
    stamp = (rates, Path(rates).stat().st_mtime_ns)
    return Difficulty(band=limits, curriculum=curriculum, bank=stamp, shares=shares)
