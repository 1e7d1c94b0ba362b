"""What commands with flags of their own share: a parser that fails in one line, and texts cut to fit a line."""

from __future__ import annotations

import argparse
from typing import NoReturn

from retool_env.errors import UsageError

__all__ = ["Parser", "shorten"]


class Parser(argparse.ArgumentParser):
    """Help as written, and mistakes as :class:`~retool_env.errors.UsageError` with the way to the help."""

    def __init__(self, **settings: object) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=layout, allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def shorten(text: str, limit: int) -> str:
    """The text on one line of at most ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
