"""A well-behaved program that runs beside each hostile one and after it, and knows what its answer must be.

It computes, keeps a file, starts a thread, counts the signals it gets, and looks around for anything that bears the
corpus's prefix: files in shared places, System V keys, an abstract socket. Alone on a clean host it sees none.
"""

from __future__ import annotations

import json
from typing import Final

from retool_env.sandbox import Limits, RunResult, RunStatus

__all__ = ["CODE", "LIMITS", "answer", "complaint"]

LIMITS: Final = Limits(cpu_seconds=20.0, wall_seconds=60.0)

CODE: Final = """
import ctypes, json, os, platform, signal, sys, tempfile, threading, time
nonce, seconds, family = sys.stdin.read().split()
caught, seen = [], []
for number in (signal.SIGURG, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGIO):
    signal.signal(number, lambda number, frame: caught.append(int(number)))
with open("retool-witness", "w") as file: file.write(nonce)
end = time.monotonic() + float(seconds)
while time.monotonic() < end:
    sum(i * i for i in range(500))
    time.sleep(0.01)
thread = threading.Thread(target=seen.append, args=("thread",))
thread.start(); thread.join()
for folder in {"/tmp", "/var/tmp", "/dev/shm", "/", "..", os.getcwd(), tempfile.gettempdir(), os.path.expanduser("~")}:
    try: seen += [folder + "/" + name for name in os.listdir(folder) if name.startswith(family)]
    except OSError: pass
if "HX" in os.environ: seen.append("a start-up hook")
libc, number = ctypes.CDLL(None), {"x86_64": 29, "aarch64": 194}.get(platform.machine())
if number and libc.syscall(number, 0x68780004, 0, 0) != -1: seen.append("a System V key")
try:
    import socket
    socket.socket(socket.AF_UNIX).connect("\\0" + family); seen.append("an abstract socket")
except OSError: pass
print(json.dumps([nonce, sum(i * i for i in range(500)), caught, open("retool-witness").read(), sorted(seen)]))
"""


def answer(nonce: str) -> str:
    """What it prints when nothing disturbs it."""
    return json.dumps([nonce, sum(i * i for i in range(500)), [], nonce, ["thread"]]) + "\n"


def complaint(who: str, result: RunResult, nonce: str) -> list[str]:
    """Nothing, or how the witness was disturbed."""
    if result.status is RunStatus.OK and result.stdout == answer(nonce):
        return []
    return [f"the {who} ended {result.status} with {result.stdout[-300:]!r} {result.stderr[-300:]!r}"]
