"""``retool sandbox doctor``: what this host lets the sandbox do, found out by doing it, and what to change.

Each tier is really started and a program run in it. Left out: other parts of the system; ``retool doctor`` is theirs.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table

from retool_env.errors import SandboxError
from retool_env.sandbox.base import Limits
from retool_env.sandbox.bench import TRIVIAL, latency
from retool_env.sandbox.box.wire import TIERS, Tier
from retool_env.sandbox.local import LocalSandbox
from retool_env.sandbox.remedies import TierError, remedy
from retool_env.terminal import Parser

__all__ = ["Finding", "examine", "main"]

_WALLS: dict[Tier, str] = {
    "T1": "namespaces, system call filter, Landlock, limits",
    "T1'": "namespaces, system call filter, limits",
    "T2": "system call filter, Landlock, limits",
    "T3": "limits only (unsafe=True)",
}
_LIBRARIES = ("numpy", "sympy", "scipy", "pandas", "matplotlib")
_LIBRARIES_CODE = f"""
import importlib.util
print(*(name for name in {_LIBRARIES!r} if importlib.util.find_spec(name)))
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One tier on this host. ``refusal`` is empty when it works; then ``seconds`` is a trivial program's latency."""

    tier: Tier
    refusal: str = ""
    seconds: float = 0.0


def examine(tier: Tier, python: str | None = None) -> Finding:
    """Start a sandbox of this tier and run programs in it."""
    with LocalSandbox(image="light", tier=tier, unsafe=tier == "T3", python=python) as sandbox:
        try:
            result = sandbox.health()
            if result.stdout != "ok\n":
                return Finding(tier=tier, refusal=result.stderr or result.status.value)
            return Finding(tier=tier, seconds=latency(sandbox, TRIVIAL, times=20, pause=0.01))
        except TierError as error:
            return Finding(tier=tier, refusal=error.refused.get(tier, str(error)))
        except (SandboxError, RuntimeError) as error:
            return Finding(tier=tier, refusal=str(error))


def _tiers_table(findings: list[Finding]) -> Table:
    table = Table(title="tiers, strongest first", title_justify="left")
    for column in ("tier", "walls", "here"):
        table.add_column(column, overflow="fold")
    for found in findings:
        here = f"no: {found.refusal}" if found.refusal else f"yes, {1000 * found.seconds:.1f} ms a program"
        table.add_row(found.tier, _WALLS[found.tier], here)
    return table


def _facts(python: str | None) -> list[tuple[str, str]]:
    with LocalSandbox(image="light", unsafe=True, python=python) as sandbox:
        libraries = sandbox.run(_LIBRARIES_CODE).stdout.strip()
    limits = Limits()
    return [
        ("kernel", f"{platform.release()} {platform.machine()}"),
        ("user", "root" if os.geteuid() == 0 else f"ordinary (id {os.geteuid()})"),
        ("processors", str(len(os.sched_getaffinity(0)))),
        ("libraries for programs", libraries or "none: pip install 'retool-env[sandbox]'"),
        (
            "default limits",
            f"{limits.cpu_seconds:g} s of processor, {limits.wall_seconds:g} s wall, {limits.memory_mb} MiB memory, "
            f"{limits.disk_mb} MiB files, {limits.output_bytes // 1024} KiB of each output kept, "
            f"subprocesses {'yes' if limits.subprocesses else 'no'}",
        ),
    ]


_EXAMPLES: Final = """\
examples:
  retool sandbox doctor
      every tier of isolation, whether it holds here, and what to change where it does not
  retool sandbox doctor --python .venv/bin/python
      the same for programs that another interpreter is to run

exit code: 0 programs can be isolated, 3 they cannot
"""


def main(arguments: list[str]) -> int:
    """``retool sandbox doctor``: 0 when programs can be isolated here, 3 when not."""
    parser = Parser(
        prog="retool sandbox doctor",
        description="find out, by doing it, how strongly programs can be isolated on this host",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--python", help="the interpreter that is to run the programs (default: this one)")
    options = parser.parse_args(arguments)
    findings = [examine(tier, options.python) for tier in TIERS]
    console = Console()
    for name, fact in _facts(options.python):
        console.print(f"[bold]{name}[/]: {fact}", highlight=False)
    console.print(_tiers_table(findings))
    advice = {remedy(found.refusal) for found in findings if found.refusal} - {""}
    for line in sorted(advice):
        console.print(f"- {line}", highlight=False)
    best = next((found.tier for found in findings if not found.refusal), None)
    if best is None or best == "T3":
        console.print("[bold]Programs cannot be isolated here.[/] The sandbox refuses to run without unsafe=True.")
        return 3
    console.print(f"Programs run in tier [bold]{best}[/]. What that means is in docs/sandbox.md.", highlight=False)
    return 0
