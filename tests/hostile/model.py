"""A hostile program as data, and the few sets of statuses and limits that most of them share.

``code`` runs behind the prelude (``prelude``) unless ``bare``. A program reports what it should never have managed
with ``breach("what")``; that it says nothing proves nothing, so ``shows`` is text it must print to show that it got as
far as trying. Everything else is judged from outside (``judge``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Final

from retool_env.sandbox import Limits, Mode, RunStatus

__all__ = [
    "ALLOWED",
    "BRISK",
    "DEFAULT",
    "ENDS",
    "FAILS",
    "NOT_OK",
    "OK",
    "SHORT",
    "SURVIVES",
    "TIMEOUT",
    "Hostile",
    "both",
]

OK: Final = frozenset({RunStatus.OK})
FAILS: Final = frozenset({RunStatus.ERROR})
ENDS: Final = OK | FAILS
TIMEOUT: Final = frozenset({RunStatus.TIMEOUT})
SURVIVES: Final = frozenset(RunStatus) - {RunStatus.SANDBOX_ERROR, RunStatus.CANCELLED}
"""However it ends, it is the program that ended, not the sandbox: callers repeat what ended as ``sandbox_error``."""
NOT_OK: Final = SURVIVES - OK

DEFAULT: Final = Limits(cpu_seconds=5.0, wall_seconds=20.0, memory_mb=128, disk_mb=16, stop_bytes=1 << 20)
BRISK: Final = replace(DEFAULT, cpu_seconds=0.3)
SHORT: Final = replace(DEFAULT, wall_seconds=0.5)
ALLOWED: Final = replace(DEFAULT, subprocesses=True)


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One program.

    Attributes:
        name: unique in the corpus.
        category: the table's row.
        what: one line, what it attempts.
        code: the program.
        expect: statuses that are right for it.
        shows: text that its stdout must contain.
        exit_code: the exit code that must be reported, where a forged one would be the point.
        stdin: its standard input.
        fetch: files that the caller asks for afterwards.
        bare: without the prelude, because the text itself is the attack.
        knock: it may open a port, so the judge tries to connect while it runs.
    """

    name: str
    category: str
    what: str
    code: str
    expect: frozenset[RunStatus] = OK
    limits: Limits = DEFAULT
    shows: str = ""
    exit_code: int | None = None
    stdin: str = ""
    mode: Mode = "script"
    fetch: tuple[str, ...] = ()
    bare: bool = False
    knock: bool = False

    def __post_init__(self) -> None:
        if not self.bare:
            object.__setattr__(self, "code", dedent(self.code).strip() + "\n")


def both(program: Hostile, *, allowed: frozenset[RunStatus] | None = None) -> tuple[Hostile, Hostile]:
    """The program with processes refused, and again where it may start them (ending as one of ``allowed``)."""
    limits = replace(program.limits, subprocesses=True)
    return program, replace(program, name=f"{program.name}-allowed", limits=limits, expect=allowed or program.expect)
