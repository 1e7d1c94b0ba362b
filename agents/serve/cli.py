"""``retool serve``: flags, and what the user is told while servers live."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agents.serve.command import LAUNCHER, ServeOptions, notes, router_spec, server_specs
from agents.serve.install import PIN, install
from agents.serve.interpreter import VARIABLE, find_installation
from agents.serve.process import ServerSpec
from agents.serve.supervisor import Supervisor
from agents.serve.watch import Patience
from retool_env.errors import EngineError, InfrastructureError, UsageError
from retool_env.terminal import Parser

__all__ = ["main"]

EXAMPLES: Final = f"""\
examples:
  retool serve --install ~/sglang
      once: make SGLang's own environment ({PIN}; about 11 GB)
  retool serve Qwen/Qwen2.5-7B-Instruct --python ~/sglang/bin/python --dtype bfloat16
      one server on http://127.0.0.1:30000
  retool serve CHECKPOINT --replicas 4 --tp 2
      eight GPUs: four servers on ports 30000 to 30003 with two GPUs each
  retool serve CHECKPOINT -- --mem-fraction-static 0.8 --context-length 32768
      everything behind `--` goes to SGLang as it is
  retool serve CHECKPOINT --dry-run
      only print the commands
  retool eval --agent sglang agent.url=http://127.0.0.1:30000 agent.path=CHECKPOINT
      what it is for

which SGLang: --python, else {VARIABLE}, else this environment (the [sglang] extra)
It starts again what dies or hangs, and stops with Ctrl-C or SIGTERM: first in order, at the second one at once.
exit code: 0 stopped by you, 2 a mistake in the command, 3 a server did not start or none stays alive
"""


def main(arguments: Sequence[str]) -> int:
    """``retool serve ARGUMENTS``; returns the exit code.

    Raises :class:`UsageError` for a mistake in them, and :class:`InfrastructureError` when servers do not live.
    """
    own, rest = _split(arguments)
    parser = _parser()
    if not own or "-h" in own or "--help" in own:
        parser.print_help()
        return 0
    options = parser.parse_args(own)
    if options.install is not None:
        return _install(options.install)
    if options.model is None:
        raise UsageError("retool serve needs a MODEL: a checkpoint folder or the name of a model on the hub")
    serve = _options(options, rest)
    specs, router = _specs(serve, options)
    for note in notes(serve):
        print(note, file=sys.stderr, flush=True)
    if options.dry_run:
        for spec in (*specs, *router):
            print(_shown(spec))
        return 0
    patience = Patience(ready_seconds=options.ready_seconds, silent_seconds=options.silent_seconds)
    return _serve(specs, router, patience)


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """What is ours, and what stands behind ``--``."""
    own = list(arguments)
    if "--" not in own:
        return own, ()
    cut = own.index("--")
    return own[:cut], tuple(own[cut + 1 :])


def _parser() -> Parser:
    parser = Parser(
        prog="retool serve",
        usage="retool serve MODEL [flags] [-- SGLANG OPTIONS]\n       retool serve --install DIR",
        description="Start SGLang servers, wait until they are ready, keep them alive and stop them.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="checkpoint folder, or the name of a model on the hub")
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine only)")
    add("--port", type=int, default=30000, help="of the first replica (default: %(default)s)")
    add("--tp", metavar="N", type=_positive, default=1, help="GPUs for each replica (default: %(default)s)")
    add(
        "--dtype",
        help="of the weights: float32, bfloat16, ... (default: as in the checkpoint; a folder that says float32 is "
        "served in bfloat16 on GPUs and in float32 on a CPU, a float32 model of the hub in what SGLang chooses)",
    )
    add("--replicas", metavar="N", type=_positive, default=1, help="servers, on ports one after the other (default: 1)")
    add("--router", metavar="PORT", type=int, help="also start SGLang's router on this port (needs sglang-router)")
    add("--python", metavar="PATH", help="interpreter of the environment that SGLang is installed in")
    add("--launcher", metavar="MODULE", default=LAUNCHER, help="module that starts a server (default: %(default)s)")
    add("--logs", metavar="DIR", type=Path, default=Path("runs/serve"), help="log files (default: %(default)s)")
    add("--ready-seconds", metavar="S", type=_seconds, default=900.0, help="limit of a start (default: %(default)g)")
    add(
        "--silent-seconds",
        metavar="S",
        type=_seconds,
        default=120.0,
        help="without any answer to HTTP, after which a server is restarted (default: %(default)g)",
    )
    add("--dry-run", action="store_true", help="print the commands and end")
    add("--install", metavar="DIR", type=Path, help=f"make an environment with {PIN} there, and end")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a positive number")
    return number


def _install(folder: Path) -> int:
    installation = install(folder.expanduser())
    print(f"SGLang {installation.version} is in {folder}. Use it with")
    print(f"  retool serve MODEL --python {installation.python}")
    print(f"or for every command: export {VARIABLE}={installation.python}")
    return 0


def _options(options: argparse.Namespace, rest: tuple[str, ...]) -> ServeOptions:
    return ServeOptions(
        model=options.model,
        host=options.host,
        port=options.port,
        tp=options.tp,
        replicas=options.replicas,
        dtype=options.dtype,
        launcher=options.launcher,
        logs=options.logs,
        rest=rest,
    )


def _specs(serve: ServeOptions, options: argparse.Namespace) -> tuple[tuple[ServerSpec, ...], tuple[ServerSpec, ...]]:
    """The servers, and the router if there is to be one."""
    installation = find_installation(options.python)
    router = () if options.router is None else (router_spec(serve, installation, options.router),)
    return server_specs(serve, installation), router


def _shown(spec: ServerSpec) -> str:
    variables = [f"{name}={shlex.quote(value)}" for name, value in spec.env.items()]
    return " ".join([*variables, shlex.join(spec.command)])


def _serve(specs: tuple[ServerSpec, ...], router: tuple[ServerSpec, ...], patience: Patience) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    for spec in (*specs, *router):
        _say(f"starting {spec.url}, log in {spec.log}")
    # The router waits for its servers by itself, so it can start with them.
    supervisor = Supervisor((*specs, *router), patience=patience, report=_say)
    try:
        with supervisor:
            _stay(supervisor, _greeting(specs, router))
    except KeyboardInterrupt:  # the second one, while servers had their grace
        supervisor.kill()
    except EngineError as error:
        raise InfrastructureError(str(error)) from error
    return 0


def _stay(supervisor: Supervisor, greeting: str) -> None:
    try:
        if supervisor.wait_ready():
            _say(greeting)
        supervisor.wait()
    except KeyboardInterrupt:
        _say("stopping; once more to stop at once")


def _greeting(specs: tuple[ServerSpec, ...], router: tuple[ServerSpec, ...]) -> str:
    urls = ",".join(spec.url for spec in specs)
    lines = [f"serving {' '.join(spec.url for spec in specs)}"]
    lines += [f"router {spec.url}" for spec in router]
    return "\n".join([*lines, f"  retool eval --agent sglang 'agent.url=[{urls}]' agent.path=CHECKPOINT"])


def _say(message: str) -> None:
    print(message, flush=True)
