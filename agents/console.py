"""The terminal, in one place: wide enough for our tables also when output goes to a file; what is typed is text."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from rich.console import Console

__all__ = ["make_console", "standard_input"]

TABLE_WIDTH = 112


def standard_input() -> TextIO:
    """Standard input, in which what is no text in its encoding becomes U+FFFD."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin


def make_console() -> Console:
    """A console on standard output; a terminal keeps its own width."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=TABLE_WIDTH)
