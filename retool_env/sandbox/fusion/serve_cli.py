"""The flags of ``retool sandbox serve``."""

from __future__ import annotations

import argparse
import math
import os
from typing import Final

from retool_env.errors import InfrastructureError, MissingExtraError, SandboxError, UsageError
from retool_env.terminal import Parser

__all__ = ["main"]

EXAMPLES: Final = """\
examples:
  retool sandbox serve
      on http://127.0.0.1:8080, for this machine only
  RETOOL_TOKEN=... retool sandbox serve --host 0.0.0.0 --token-env RETOOL_TOKEN
      for other machines that know the token; put a proxy with TLS in front of it on networks you do not trust
  curl http://127.0.0.1:8080/run_code -H 'content-type: application/json' \\
       -d '{"language": "python", "code": "print(6 * 7)"}'
      one program; the protocol is SandboxFusion's, see docs/fusion.md

It prints one line when it is ready. SIGTERM or Ctrl-C stop it: running programs are ended, the exit code is 0.
"""


def main(arguments: list[str]) -> int:
    """``retool sandbox serve``."""
    options = _parser().parse_args(arguments)
    try:
        from retool_env.sandbox.fusion import serve
        from retool_env.sandbox.fusion.service import Bounds
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise MissingExtraError("`retool sandbox serve`", "serve") from error
    settings = vars(options)
    bounds = Bounds(
        max_seconds=settings.pop("max_seconds"),
        max_memory_mb=settings.pop("max_memory_mb"),
        output_bytes=settings.pop("max_output_kb") << 10,
        subprocesses=settings.pop("allow_subprocesses"),
    )
    tokens = _tokens(settings.pop("token_env"))
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        serve.serve(serve.ServeOptions(tokens=tokens, bounds=bounds, **settings))
    except SandboxError as error:
        raise InfrastructureError(str(error)) from error
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="retool sandbox serve",
        description="Serve the sandbox of this machine over SandboxFusion's HTTP protocol.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)")
    add("--port", type=_port, default=8080, help="0 takes any free one and prints it (default: %(default)s)")
    add(
        "--image",
        choices=("auto", "light", "science"),
        default="auto",
        help="warm modules (default: by what a program mentions)",
    )
    add("--max-running", metavar="N", type=_positive, help="programs at the same time (default: usable processors)")
    add(
        "--max-queue",
        metavar="N",
        type=_positive,
        default=1024,
        help="programs waiting; beyond: 429 (default: %(default)s)",
    )
    add(
        "--max-seconds",
        metavar="S",
        type=_seconds,
        default=600.0,
        help="largest time limit of a request (default: %(default)g)",
    )
    add(
        "--max-memory-mb", metavar="N", type=_positive, default=8192, help="largest memory limit (default: %(default)s)"
    )
    add(
        "--max-output-kb",
        metavar="N",
        type=_positive,
        default=2048,
        help="KiB kept of each output stream (default: %(default)s)",
    )
    add("--max-body-mb", metavar="N", type=_positive, default=64, help="MiB of one request (default: %(default)s)")
    add("--allow-subprocesses", action="store_true", help="programs may start other processes")
    add("--token-env", metavar="NAME", help="environment variable that holds the token, or several with spaces between")
    add("--allow-anonymous", action="store_true", help="listen at an address of the network without a token")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} must be a positive number")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 65535")
    return number


def _tokens(name: str | None) -> tuple[str, ...]:
    if name is None:
        return ()
    tokens = tuple(os.environ.get(name, "").split())
    if not tokens:
        raise UsageError(f"--token-env {name}: that environment variable is not set or empty; put the token into it")
    return tokens
