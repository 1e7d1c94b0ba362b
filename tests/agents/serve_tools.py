"""What the tests of ``agents.serve`` share: specs of the small server, free ports, and who is still alive."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from agents.serve import Patience, ServerSpec

ROOT = Path(__file__).resolve().parents[2]
QUICK = Patience(
    ready_seconds=60,
    silent_seconds=60,
    first_pause=0.05,
    longest_pause=0.2,
    young_seconds=60,
    losses=3,
    open_seconds=0.3,
)


def free_ports(number: int = 1) -> int:
    """The first of as many free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        if first + number < 65536 and all(is_free(first + k) for k in range(number)):
            return first


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def small(folder: Path, *flags: str, grace_seconds: float = 5.0) -> ServerSpec:
    port = free_ports()
    return ServerSpec(
        command=(sys.executable, "-m", "tests.agents.small_server", "--host", "127.0.0.1", "--port", str(port), *flags),
        host="127.0.0.1",
        port=port,
        log=folder / "logs" / f"{port}.log",
        env={"PYTHONPATH": str(ROOT)},
        grace_seconds=grace_seconds,
    )


def facts(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/facts", trust_env=False).json()
    return found


def lives(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped is dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
