"""Drop problems that no answer can solve.

Purpose: a gold answer that the verifier cannot match even with itself pays nobody, whatever the policy does; such
problems would only add noise, and nobody would be told.
Contract: order is kept; what was dropped is returned with its reason, and a warning says how many and which. Questions
that came before with another gold have a warning of their own: their golds can be graded, and one of the two is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.verifier import gold_problem

__all__ = ["OTHER_GOLD", "Dropped", "keep_gradable"]

OTHER_GOLD: Final = "other_gold"
"""The reason of a problem whose question came before with another gold."""

_log = logging.getLogger(__name__)
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A problem that was left out: its id, its gold and the reason, the verifier's or the reader's."""

    id: str
    gold: str
    reason: str


def keep_gradable(
    problems: Iterable[Problem | Dropped], *, where: str, limit: int | None = None
) -> tuple[tuple[Problem, ...], tuple[Dropped, ...]]:
    """The first ``limit`` problems whose gold can be graded, and those that were dropped on the way.

    Args:
        problems: with those among them that were dropped already.
        where: the file, for messages.

    Raises:
        UsageError: no problem is left.
    """
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        if isinstance(problem, Dropped):
            dropped.append(problem)
        elif reason := gold_problem(problem.answer):
            dropped.append(Dropped(id=problem.id, gold=problem.answer, reason=reason))
        else:
            kept.append(problem)
        if limit is not None and len(kept) >= limit:
            break
    other = [one for one in dropped if one.reason.startswith(OTHER_GOLD)]
    _warn(where, "whose question came before with another gold", other)
    _warn(where, "whose gold cannot be graded", [one for one in dropped if not one.reason.startswith(OTHER_GOLD)])
    if not kept:
        raise UsageError(f"{where}: no gold answer can be graded; run `retool data check {where}`")
    return tuple(kept), tuple(dropped)


def _warn(where: str, what: str, dropped: Sequence[Dropped]) -> None:
    if dropped:
        named = ", ".join(f"{one.id} ({one.gold[:40]!r}: {one.reason})" for one in dropped[:_MAX_NAMED])
        more = ", ..." if len(dropped) > _MAX_NAMED else ""
        _log.warning("%s: dropped %d problems %s: %s%s", where, len(dropped), what, named, more)
