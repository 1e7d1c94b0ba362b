"""Addresses of servers: checked once, and shown without the password that may be in them."""

from __future__ import annotations

import re
from typing import Final

import httpx

from retool_env.errors import UsageError

__all__ = ["MASK", "check_url", "mask_url"]

MASK: Final = "***"

_USER: Final = re.compile(r"(?<=://).*@")


def check_url(url: str, *, what: str, example: str, suffix: str = "") -> str:
    """``url`` without a slash or ``suffix`` at its end.

    Args:
        what: it is, for the message.
        suffix: path that people copy along.

    Raises:
        UsageError: no http or https URL.
    """
    try:
        parsed = httpx.URL(url.rstrip("/").removesuffix(suffix))
    except httpx.InvalidURL as error:
        raise UsageError(f"{what} {mask_url(url)!r}: {error}; must look like {example}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{what} {mask_url(url)!r}: must look like {example}")
    return str(parsed).rstrip("/")


def mask_url(url: str) -> str:
    """``url`` as it may be stored and printed.

    >>> mask_url("http://user:secret@host:8000/v1")
    'http://***@host:8000/v1'
    """
    return _USER.sub(f"{MASK}@", url)
