"""Engines that several files are run against; each is started once in a module, when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.agents.contestants import Contestant, Maker


@pytest.fixture(scope="module")
def opened(tiny_folder: Path) -> Iterator[dict[Maker, Contestant]]:
    """The contestants so far."""

    class Opened(dict[Maker, Contestant]):
        def __missing__(self, make: Maker) -> Contestant:
            self[make] = stack.enter_context(make(tiny_folder))
            return self[make]

    with ExitStack() as stack:
        yield Opened()
