"""What the caller and the zygote say to each other: the only definitions both sides share.

One run is one packet on the zygote's request socket: an :class:`Order` as JSON together with the descriptors named by
:data:`ENDS` and, in this sequence, those that the order says it has. The first of them is the run's own *control*
socket. The zygote answers there with exactly one :class:`Report`; the caller never writes there, and to shut down its
sending half means "stop this run". So no run can receive the answer of another one, nobody has to sort answers by
number, and the end of the zygote is visible as end of file.

A session is an order whose program is the session's host (see ``cells``); it gets a *channel* instead of a program and
its streams, and takes one :class:`Cell` after the other there.

Left out: program texts, inputs, files and outputs, which travel through the descriptors and not through here.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict

__all__ = ["ENDS", "PACKET", "TIERS", "Cell", "CellReport", "Order", "Ready", "Report", "Set_up", "Tier", "Why"]

Tier = Literal["T1", "T1'", "T2", "T3"]
TIERS: Final[tuple[Tier, ...]] = ("T1", "T1'", "T2", "T3")
"""Strongest first. T1: namespaces, seccomp, Landlock, limits. T1': no Landlock. T2: no namespaces. T3: limits only."""

ENDS: Final = ("control", "code", "stdout", "stderr")
"""The descriptors that every program comes with, in this sequence; then stdin and files if the order has them."""

PACKET: Final = 64 * 1024
"""More bytes than any packet has."""

Why = Literal["", "asked", "cpu", "wall", "memory"]
"""Why the zygote killed a program; empty when it did not."""


class Set_up(TypedDict):  # noqa: N801
    """What a zygote is started with, besides the descriptors of its request socket and of its owner's process."""

    image: str
    tiers: list[Tier]
    base: str
    spares: int
    hint: int


class Order(TypedDict):
    """One program, or one session, to run."""

    session: bool
    mode: str
    seed: int
    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    disk_mb: int
    subprocesses: bool
    scratch: str
    stdin: bool
    files: bool


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
    max_rss_mb: float


class Cell(TypedDict):
    """One cell of a session, with the same descriptors as a program but for the control socket.

    ``alone``: the cell is a whole program, run as such, and ends the session; ``fetch`` are the files to read back
    into the last descriptor, which is there when the list is not empty.
    """

    mode: str
    cpu_seconds: float
    wall_seconds: float
    stdin: bool
    files: bool
    fetch: list[str]
    alone: bool


class CellReport(Report):
    """How a cell ended. ``kept``: its state is what the next cell continues from."""

    kept: bool


class Ready(TypedDict):
    """The zygote's first packet: the tier it got, empty when none, and why not a stronger one that would have done."""

    tier: str
    refused: dict[str, str]
