"""What the caller and the zygote say to each other: the only definitions both sides share.

One run is one packet on the zygote's request socket: an :class:`Order` as JSON together with the five descriptors
named by :data:`ENDS`. The first of them is the run's own *control* socket. The zygote answers there with exactly one
:class:`Report`; the caller never writes there, and to shut down its sending half means "stop this run". So no run can
receive the answer of another one, nobody has to sort answers by number, and the end of the zygote is visible as end
of file.

Left out: the program text, its input and its output, which travel through the descriptors and not through here.
Standard library only, because the zygote loads this file by path.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict

__all__ = ["ENDS", "PACKET", "Order", "Ready", "Report", "Why"]

ENDS: Final = ("control", "code", "stdin", "stdout", "stderr")
"""The descriptors of an order, in this sequence."""

PACKET: Final = 64 * 1024
"""More bytes than any packet has."""

Why = Literal["", "asked", "cpu", "wall"]
"""Why the zygote killed a program; empty when it did not."""


class Order(TypedDict):
    """One program to run."""

    mode: str
    seed: int
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    scratch: str


class Report(TypedDict):
    """How the program ended, as the kernel tells it.

    ``started`` is false when the set-up failed before the first line of the program, with the reason in ``fault``.
    ``memory`` means an uncaught ``MemoryError`` or a kill by the kernel's out-of-memory handling. ``code`` is the
    exit code, or the negated number of the signal.
    """

    started: bool
    fault: str
    memory: bool
    code: int
    why: Why
    cpu_seconds: float
    wall_seconds: float


class Ready(TypedDict):
    """The zygote's first packet: which privilege its programs have (see ``confine.Privilege``)."""

    privilege: str
