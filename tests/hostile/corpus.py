"""The whole corpus, in the order of the table, and how to pick from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from retool_env.errors import UsageError, did_you_mean
from tests.hostile import (
    cpu,
    files,
    harness,
    interpreter,
    kernel,
    memory,
    neighbours,
    network,
    output,
    privileges,
    processes,
    secrets,
    texts,
)
from tests.hostile.model import Hostile

__all__ = ["CATEGORIES", "CORPUS", "pick"]

_MODULES = (
    cpu,
    processes,
    memory,
    output,
    files,
    secrets,
    network,
    kernel,
    privileges,
    interpreter,
    harness,
    texts,
    neighbours,
)

CORPUS: Final[tuple[Hostile, ...]] = tuple(program for module in _MODULES for program in module.PROGRAMS)
CATEGORIES: Final = tuple(dict.fromkeys(program.category for program in CORPUS))

_by_name = {program.name: program for program in CORPUS}
assert len(_by_name) == len(CORPUS), "two programs have the same name"


def pick(wanted: Sequence[str]) -> tuple[Hostile, ...]:
    """Programs by name or category; all when nothing is wanted. Raises :class:`UsageError` for an unknown one."""
    for name in wanted:
        if name not in _by_name and name not in CATEGORIES:
            raise UsageError(f"no hostile program or category {name!r}{did_you_mean(name, [*_by_name, *CATEGORIES])}")
    return tuple(p for p in CORPUS if not wanted or p.name in wanted or p.category in wanted)
