"""Text as Hydra takes it from a command line, whatever is in it."""

from __future__ import annotations

import re
from typing import Final

from hydra.core.override_parser.types import Quote, QuotedString

__all__ = ["literal", "quoted"]

_VARIABLE: Final = re.compile(r"(\\*)\$\{")


def quoted(value: str) -> str:
    """``value`` as one value, in which ``${...}`` still stands for another one."""
    return str(QuotedString(text=value, quote=Quote.single).with_quotes())


def literal(value: str) -> str:
    r"""``value`` as itself.

    >>> print(literal("it's ${HOME}"))
    'it\'s \${HOME}'
    """
    return quoted(_VARIABLE.sub(r"\1\1\\${", value))
