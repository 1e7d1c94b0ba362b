"""Procedural arithmetic: one family that a small model can do in its head, four that it cannot.

============  ======================================  =====================
family        question                                by hand?
============  ======================================  =====================
add           sum of two digits                       yes, from memory
mulmod        product of two three-digit numbers,     no
              modulo a third
powmod        modular power                           no
gcd           greatest common divisor of two          no
              three-digit numbers
digit_sum     digit sum of a power                    no
============  ======================================  =====================

The held-out split is one by construction: a hash decides to which split a problem belongs, so no training problem of
any seed is a held-out one. For the hard families the hash is of the operands: what is held out has never been computed
in training, in any wording. There are only a hundred sums of two digits, and knowing them by heart is what "in the
head" means; each is asked in four wordings, of which one is held out.

All operands and answers are below 1000, i.e. one token of the tiny model's vocabulary.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retool_env.errors import UsageError, did_you_mean
from retool_env.problems import Problem
from retool_env.seeding import derive
from retool_env.sources import ListSource, Split

__all__ = ["EASY_FAMILIES", "FAMILIES", "HARD_FAMILIES", "ArithmeticSource", "fixed_set"]

EASY_FAMILIES = ("add",)
HARD_FAMILIES = ("mulmod", "powmod", "gcd", "digit_sum")
FAMILIES = EASY_FAMILIES + HARD_FAMILIES
HELDOUT_SHARE = 4  # one problem in four is held out


@dataclass(frozen=True, kw_only=True)
class _Task:
    operands: tuple[int, ...]
    wordings: tuple[str, ...]
    expression: str
    answer: int
    imports: str = ""


def _add(rng: random.Random) -> _Task:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    wordings = (
        f"What is {a} + {b}?",
        f"Add {a} and {b}.",
        f"Find the sum of {a} and {b}.",
        f"How much is {a} plus {b}?",
    )
    return _Task(operands=(a, b), wordings=wordings, expression=f"{a}+{b}", answer=a + b)


def _mulmod(rng: random.Random) -> _Task:
    a, b, m = rng.randint(100, 999), rng.randint(100, 999), rng.randint(101, 999)
    wordings = (f"Compute {a} * {b} modulo {m}.", f"What is {a} times {b} modulo {m}?")
    return _Task(operands=(a, b, m), wordings=wordings, expression=f"{a}*{b}%{m}", answer=a * b % m)


def _powmod(rng: random.Random) -> _Task:
    a, b, m = rng.randint(11, 99), rng.randint(11, 99), rng.randint(101, 999)
    wordings = (f"Find the remainder of {a}^{b} divided by {m}.", f"Compute {a}^{b} modulo {m}.")
    return _Task(operands=(a, b, m), wordings=wordings, expression=f"pow({a},{b},{m})", answer=pow(a, b, m))


def _gcd(rng: random.Random) -> _Task:
    g = rng.randint(2, 60)
    a, b = (g * rng.randint(-(-100 // g), 999 // g) for _ in range(2))
    wordings = (f"Find the gcd of {a} and {b}.", f"What is the gcd of {a} and {b}?")
    imports = "from math import gcd\n"
    return _Task(operands=(a, b), wordings=wordings, expression=f"gcd({a},{b})", answer=math.gcd(a, b), imports=imports)


def _digit_sum(rng: random.Random) -> _Task:
    a, b = rng.randint(11, 99), rng.randint(11, 99)
    wordings = (f"Sum the digits of {a}^{b}.", f"What is the digit sum of {a}^{b}?")
    answer = sum(map(int, str(a**b)))
    return _Task(operands=(a, b), wordings=wordings, expression=f"sum(map(int,str({a}**{b})))", answer=answer)


_DRAW: Mapping[str, Callable[[random.Random], _Task]] = {
    "add": _add,
    "mulmod": _mulmod,
    "powmod": _powmod,
    "gcd": _gcd,
    "digit_sum": _digit_sum,
}


def _wordings_in(family: str, task: _Task, split: Split) -> list[str]:
    """The wordings of the task that belong to the split; all or none of them for the hard families."""
    draw = derive(0, f"split:{family}", *task.operands) % HELDOUT_SHARE
    if family in EASY_FAMILIES:
        return [text for k, text in enumerate(task.wordings) if (k == draw) == (split == "heldout")]
    return list(task.wordings) if (draw == 0) == (split == "heldout") else []


def draw_problem(rng: random.Random, family: str, split: Split) -> Problem:
    """One problem of the family that belongs to the split.

    ``metadata`` says how a program would compute the answer; traces and oracles are written from it.
    """
    tasks = (_DRAW[family](rng) for _ in itertools.count())
    task, wordings = next((task, texts) for task in tasks if (texts := _wordings_in(family, task, split)))
    wording = rng.choice(wordings)
    metadata = {"expression": task.expression, "imports": task.imports}
    return Problem(
        id=wording, prompt=wording, answer=str(task.answer), source="arithmetic", family=family, metadata=metadata
    )


@dataclass(frozen=True, kw_only=True)
class ArithmeticSource:
    """An endless source: problem ``i`` depends on the seed and ``i`` alone.

    Raises:
        UsageError: an unknown family, or weights that are negative or all zero.
    """

    split: Split = "train"
    seed: int = 0
    families: Mapping[str, float] | None = None
    name: str = "arithmetic"

    def __post_init__(self) -> None:
        for family, weight in self._weights.items():
            if family not in FAMILIES:
                raise UsageError(f"problems.families: {family!r} is unknown{did_you_mean(family, FAMILIES)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"problems.families.{family}={weight}: a weight is a number >= 0")
        if not sum(self._weights.values()) > 0:
            raise UsageError("problems.families: at least one weight must be above 0")

    @property
    def size(self) -> None:
        return None

    @property
    def names(self) -> list[str]:
        """The families that can come up."""
        return [family for family, weight in self._weights.items() if weight > 0]

    @property
    def _weights(self) -> Mapping[str, float]:
        return dict.fromkeys(FAMILIES, 1.0) if self.families is None else self.families

    def problem(self, index: int) -> Problem:
        rng = random.Random(derive(self.seed, f"arithmetic:{self.split}", index))
        family = rng.choices(list(self._weights), weights=list(self._weights.values()))[0]
        return draw_problem(rng, family, self.split)


def fixed_set(size: int, *, split: Split, seed: int = 0, families: Mapping[str, float] | None = None) -> ListSource:
    """``size`` different problems, the families in turn, so that every family has the same number."""
    names = ArithmeticSource(families=families).names
    rng = random.Random(derive(seed, f"arithmetic-set:{split}"))
    chosen: dict[str, Problem] = {}
    for position in range(size):
        family = names[position % len(names)]
        draws = (draw_problem(rng, family, split) for _ in range(10_000))
        problem = next((problem for problem in draws if problem.id not in chosen), None)
        if problem is None:
            raise UsageError(f"problems.size={size}: {family!r} has no more different {split} problems; ask for fewer")
        chosen[problem.id] = problem
    return ListSource(name="arithmetic", problems=tuple(chosen.values()))
