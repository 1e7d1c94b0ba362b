"""A program of many processes is weighed in portions, so that weighing it never holds up the zygote's clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from retool_env.sandbox.box import weight
from tests.retool_env.sandbox_tools import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local sandbox needs Linux")

CHILDREN = 20
FAMILY = f"""
import os, time
for _ in range({CHILDREN}):
    if os.fork() == 0:
        break
time.sleep(600)
"""


@pytest.fixture
def family() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-S", "-c", FAMILY]) as parent:
        process = psutil.Process(parent.pid)
        try:
            assert eventually(lambda: len(process.children()) == CHILDREN)
            yield process
        finally:
            for one in (*process.children(), process):
                one.kill()


def portions(process: psutil.Process, most_mb: float) -> tuple[int, bool]:
    """The number of portions of one look, and how it ended."""
    proc, pidfd = os.open("/proc", os.O_RDONLY), os.pidfd_open(process.pid)
    try:
        scale = weight.Scale(proc=proc, pidfd=pidfd, most_mb=most_mb)
        for number in range(1, 10 * CHILDREN):
            heavy = scale.too_heavy()
            if heavy or scale.due > time.monotonic():
                return number, heavy
        raise AssertionError("a look without an end")
    finally:
        os.close(pidfd)
        os.close(proc)


def test_a_look_stops_after_each_portion(family: psutil.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "_PORTION_SECONDS", 0.0)
    monkeypatch.setattr(weight, "_SHORTEST", 60.0)
    monkeypatch.setattr(weight, "_LONGEST", 60.0)
    # The last turn finds that none is left.
    assert portions(family, 1e6) == (1 + CHILDREN + 1, False)


def test_the_sum_is_what_all_hold_in_proportion(family: psutil.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "_SHORTEST", 60.0)
    monkeypatch.setattr(weight, "_LONGEST", 60.0)
    held = sum(one.memory_full_info().pss for one in (family, *family.children())) / (1 << 20)
    assert not portions(family, 1.1 * held)[1]
    assert portions(family, 0.9 * held)[1]
