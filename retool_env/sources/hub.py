"""Data sets on the Hugging Face hub, streamed through the ``datasets`` library.

``hf:owner/name`` is a data set, ``hf:owner/name:config`` one of its configurations. Nothing is downloaded as a whole.
What is measured or trained on for long is better kept as a file: ``retool data prepare hf:owner/name --out FILE``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx

from retool_env.data.tables import Numbered
from retool_env.errors import MissingExtraError, UsageError

__all__ = ["read_hub"]

_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


def read_hub(name: str, split: str) -> Iterator[Numbered]:
    """The rows of a split, numbered from 1.

    Raises:
        UsageError: not a name, or the hub cannot be reached or does not know it.
        MissingExtraError: the ``[hub]`` extra is not installed.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"hf:{name}: expected hf:owner/name or hf:owner/name:config")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError(
            f"hf:{name} (a file that was downloaded before needs nothing: problems.path=FILE)", "hub"
        ) from error
    owner, _, config = name.partition(":")
    try:
        yield from enumerate(load_dataset(owner, config or None, split=split, streaming=True), start=1)
    except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"hf:{name} cannot be read ({type(error).__name__}: {said}); offline, give a downloaded file instead: "
            "problems.path=FILE"
        ) from error
