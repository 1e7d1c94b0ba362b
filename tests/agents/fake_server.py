"""Starts the fake SGLang server as a process of its own, for tests and their fixtures."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class FakeServer:
    url: str
    process: subprocess.Popen[str]

    def post(self, path: str, body: object, **settings) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            return client.post(f"{self.url}{path}", json=body, **settings)

    def get(self, path: str, **settings) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            return client.get(f"{self.url}{path}", **settings)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@contextlib.contextmanager
def fake_sglang(*flags: str | Path) -> Iterator[FakeServer]:
    command = [sys.executable, "-m", "tests.agents.fake_sglang", *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ})
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline()
        assert greeting.startswith("serving http://"), f"the fake did not start: {greeting!r}"
        yield FakeServer(url=greeting.split()[1], process=process)
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
