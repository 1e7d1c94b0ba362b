"""Several sources in one, by weight.

Problem ``i`` is a pure function of the seed and ``i``: parts take turns in shuffled blocks in which each has its share,
and a finite part is played through, in a new order each time, before any of its problems comes again.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from retool_env.errors import UsageError
from retool_env.feeder import ProblemSource, shuffled
from retool_env.problems import Problem
from retool_env.seeding import derive
from retool_env.sources import ListSource

__all__ = ["MixtureSource", "Part"]

BLOCK = 1000
"""Problems of a block; shares are exact to one in so many."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A source and its weight, relative to the others'."""

    source: ProblemSource
    weight: float


@dataclass(frozen=True, kw_only=True)
class MixtureSource:
    """An endless source.

    Raises:
        UsageError: no parts, weights that are negative or all zero, or two parts with the same problem.
    """

    parts: Sequence[Part]
    seed: int = 0
    name: str = "mixture"
    _quotas: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        weights = [part.weight for part in self.parts]
        if not weights:
            raise UsageError("problems.parts is empty; give [{name: ..., path: ..., weight: ...}, ...]")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not sum(weights) > 0:
            raise UsageError(f"problems.parts: weights {weights}; expected numbers >= 0, at least one above 0")
        _refuse_shared(self.parts)
        object.__setattr__(self, "_quotas", _quotas(weights))

    @property
    def size(self) -> None:
        return None

    def problem(self, index: int) -> Problem:
        block, position = divmod(index, BLOCK)
        order = _block(self.seed, self._quotas, block)
        chosen = order[position]
        number = block * self._quotas[chosen] + order[:position].count(chosen)
        source = self.parts[chosen].source
        if source.size is None:
            return source.problem(number)
        epoch, place = divmod(number, source.size)
        return source.problem(shuffled(source.size, derive(self.seed, "mixture-part", chosen), epoch)[place])


def _quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """How many problems of a block each part has; at least one if it has any weight at all."""
    shares = [weight / sum(weights) * BLOCK for weight in weights]
    quotas = [max(1, math.floor(share)) if share else 0 for share in shares]
    by_rest = sorted(range(len(shares)), key=lambda k: quotas[k] - shares[k])
    for k in itertools.islice(itertools.cycle(by_rest), max(0, BLOCK - sum(quotas))):
        quotas[k] += 1
    while sum(quotas) > BLOCK:
        quotas[quotas.index(max(quotas))] -= 1
    return tuple(quotas)


@functools.lru_cache(maxsize=64)
def _block(seed: int, quotas: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Which part is drawn at each position of a block."""
    parts = [part for part, quota in enumerate(quotas) for _ in range(quota)]
    return tuple(parts[k] for k in shuffled(BLOCK, derive(seed, "mixture"), block))


def _refuse_shared(parts: Sequence[Part]) -> None:
    owner: dict[str, int] = {}
    for number, part in enumerate(parts):
        for problem in part.source.problems if isinstance(part.source, ListSource) else ():
            if owner.setdefault(problem.id, number) != number:
                raise UsageError(
                    f"problems.parts: parts {owner[problem.id]} and {number} both have a problem {problem.id!r}; "
                    "results are joined by id, so name a file only once, and give files different names"
                )
