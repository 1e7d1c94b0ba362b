"""A bar on the error stream for work that takes a while; nothing where no one is looking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["track"]

T = TypeVar("T")
EVERY = 64
"""Items between two updates: rows pass by the hundred thousand a second."""


def track(items: Iterable[T], label: str, *, total: int | None = None) -> Iterator[T]:
    """The items, shown as they pass.

    Args:
        total: how many there will be; ``None`` when nobody knows.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task(label, total=total)
        for count, item in enumerate(items, start=1):
            yield item
            if count % EVERY == 0:
                progress.update(bar, completed=count)
