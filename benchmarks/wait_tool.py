"""A tool that takes as long as it is told to; see ``longtail.py``."""

from __future__ import annotations

import time


def wait(seconds: float) -> str:
    """Wait.

    Args:
        seconds: how long.
    """
    time.sleep(seconds)
    return "done"


TOOL_FUNCTIONS = [wait]
