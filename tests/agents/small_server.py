"""Takes SGLang's place where only processes matter: a small HTTP server that can be told to misbehave.

    python -m tests.agents.small_server --host H --port P [--deaf] [--family] [--fail-from N --count FILE] ...

It understands the flags of SGLang that it is started with, and ignores them. It answers ``/health`` and ``/ready`` with
200, ``/facts`` with what it knows about itself, and ``/crash`` not at all. ``--deaf`` ignores SIGTERM; ``--family``
starts a child, and a grandchild that has left for a session of its own; with ``--fail-from N`` the N-th start and all
later ones end at once, and ``--count`` is the file that counts starts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

GRANDCHILD = """\
import subprocess
quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(subprocess.Popen(["sleep", "600"], start_new_session=True, **quiet).pid)
"""


class Handler(BaseHTTPRequestHandler):
    facts: dict[str, object] = {}  # noqa: RUF012, one server in this process

    def do_GET(self) -> None:
        if self.path == "/crash":
            os.kill(os.getpid(), signal.SIGKILL)
        body = json.dumps(self.facts).encode()
        self.send_response(200 if self.path in ("/health", "/ready", "/facts") else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the log is for what matters."""


def family() -> list[int]:
    child = subprocess.Popen(["sleep", "600"])
    # Its parent ends at once, so that it is nobody's child but the subreaper's.
    grandchild = subprocess.run([sys.executable, "-c", GRANDCHILD], capture_output=True, text=True, check=True)
    return [child.pid, int(grandchild.stdout)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--family", action="store_true")
    parser.add_argument("--fail-from", type=int)
    parser.add_argument("--count", type=Path)
    options, _ = parser.parse_known_args()
    starts = 1
    if options.count is not None:
        with options.count.open("a") as file:
            file.write("x")
        starts = options.count.stat().st_size
    if options.fail_from is not None and starts >= options.fail_from:
        print(f"no luck with start {starts}", flush=True)
        sys.exit(7)
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("the first line of the log", flush=True)
    Handler.facts = {
        "pid": os.getpid(),
        "guard": os.getppid(),
        "family": family() if options.family else [],
        "arguments": sys.argv[1:],
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "starts": starts,
    }
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
