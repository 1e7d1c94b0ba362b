"""What an examination says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level"]

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what was looked at, in a word or two.
        said: what is the case.
        level: ``ok``; ``note``, good to know or not needed by everybody; ``wrong``, something does not work as it is.
        fix: what to do, where something can be done.
    """

    topic: str
    said: str
    level: Level = "ok"
    fix: str = ""
