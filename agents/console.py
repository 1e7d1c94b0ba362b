"""The terminal, in one place: wide enough for our tables also when output goes to a file."""

from __future__ import annotations

from rich.console import Console

__all__ = ["make_console"]

TABLE_WIDTH = 112


def make_console() -> Console:
    """A console on standard output; a terminal keeps its own width."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=TABLE_WIDTH)
