"""What a local sandbox is made of in one process: its plan, and the places and zygotes that carry it out.

A plan may be copied to another process, a crew may not: a process that was forked makes one of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import weakref
from collections.abc import Callable
from typing import Final, Literal

from retool_env.errors import UsageError, did_you_mean
from retool_env.sandbox.admission import Admission
from retool_env.sandbox.box.images import Image
from retool_env.sandbox.box.wire import TIERS, Tier
from retool_env.sandbox.keeper import Keeper
from retool_env.sandbox.process import ZygoteProcess

__all__ = ["Crew", "Plan", "tiers_of"]

_SCIENCE: Final = re.compile(r"\b(?:numpy|scipy|sympy|mpmath|pandas|matplotlib|networkx|sklearn|statsmodels)\b")


def tiers_of(tier: str | None, unsafe: bool) -> tuple[Tier, ...]:
    """The tiers that will do, best first. Raises :class:`UsageError`."""
    if tier is None:
        return TIERS if unsafe else TIERS[:-1]
    found = next((known for known in TIERS if known == tier), None)
    if found is None:
        raise UsageError(f"unknown sandbox tier {tier!r}{did_you_mean(tier, TIERS)}")
    if found == "T3" and not unsafe:
        raise UsageError("tier 'T3' does not isolate programs: say unsafe=True if you trust every one of them")
    return (found,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How a sandbox is to be, independent of the process it lives in."""

    image: Literal["auto", "light", "science"]
    workers: int
    places: int
    most_waiting: int
    spares: int
    tiers: tuple[Tier, ...]
    python: str

    def keepers(self) -> dict[Image, list[Keeper]]:
        images: tuple[Image, ...] = ("light", "science") if self.image == "auto" else (self.image,)
        return {image: [Keeper(self._start(image)) for _ in range(self.workers)] for image in images}

    def _start(self, image: Image) -> Callable[[], ZygoteProcess]:
        return lambda: ZygoteProcess(image=image, python=self.python, tiers=self.tiers, spares=self.spares)


class Crew:
    """What belongs to one process: admission and the zygotes. A forked process must not use its parent's."""

    def __init__(self, plan: Plan) -> None:
        self.owner = os.getpid()
        self.admission = Admission(places=plan.places, most_waiting=plan.most_waiting)
        self.sessions: weakref.WeakSet[object] = weakref.WeakSet()
        self._keepers = plan.keepers()
        self._turns = itertools.count()

    @property
    def keepers(self) -> list[Keeper]:
        return [keeper for keepers in self._keepers.values() for keeper in keepers]

    def keeper_for(self, code: str) -> Keeper:
        """A wrong guess costs time and nothing else: every module can be imported in every image."""
        images = list(self._keepers)
        image = images[-1] if _SCIENCE.search(code) else images[0]
        keepers = self._keepers[image]
        return keepers[next(self._turns) % len(keepers)]

    def close(self) -> None:
        """End the zygotes, unless they are those of the process that forked us."""
        if self.owner == os.getpid():
            self.admission.close()
            for keeper in self.keepers:
                keeper.close()
