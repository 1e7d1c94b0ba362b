"""``retool sandbox serve`` as a real process on loopback, for the tests of server, client and command line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

LIGHT = ("--image", "light")


@dataclass(frozen=True, kw_only=True)
class Server:
    url: str
    greeting: str
    process: subprocess.Popen[str]

    def post(self, path: str, body: object, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            return client.post(f"{self.url}{path}", json=body, headers=headers)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60.0) as client:
            return client.get(f"{self.url}{path}", headers=headers)


@contextlib.contextmanager
def serving(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    command = [sys.executable, "-m", "retool_env.cli", "sandbox", "serve", "--port", "0", *LIGHT, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    assert process.stdout is not None
    try:
        greeting = process.stdout.readline()
        assert greeting.startswith("serving http://"), f"the server did not start: {greeting!r}"
        yield Server(url=greeting.split()[1], greeting=greeting, process=process)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
