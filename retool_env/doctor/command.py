"""``retool doctor``: look, say, and say what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from retool_env.doctor.checkpoint import examine_checkpoint
from retool_env.doctor.finding import Finding
from retool_env.doctor.installation import examine_extras, examine_names, examine_program
from retool_env.doctor.machine import PORTS, examine_gpus, examine_machine, examine_port, examine_sandbox
from retool_env.doctor.servers import examine_endpoint, examine_sandbox_server
from retool_env.terminal import Parser

__all__ = ["examine", "main"]

EXAMPLES: Final = """\
examples:
  retool doctor
      this installation and this machine: extras, versions, name collisions, sandbox, GPUs, ports
  retool doctor models/Qwen2.5-7B-Instruct
      and whether that folder holds all that a model is loaded from
  retool doctor --sandbox-url http://gpu-box:8080 --base-url http://gpu-box:8000/v1 --api-key KEY
      and whether these servers answer: address, token, a program that runs, the endpoint's models

exit code: 0 nothing is wrong, 1 something is, and stands first"""
_COLOURS: Final = {"ok": "green", "note": "yellow", "wrong": "red"}


def main(arguments: Sequence[str]) -> int:
    """``retool doctor ARGUMENTS``; returns the exit code. Raises :class:`UsageError`."""
    parser = Parser(
        prog="retool doctor",
        description="what of this machine and this installation stands in the way, and what to do about it",
        epilog=EXAMPLES,
    )
    parser.add_argument("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="folders of models to look at")
    parser.add_argument("--sandbox-url", metavar="URL", help="a SandboxFusion server to try")
    parser.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible endpoint to try")
    parser.add_argument("--api-key", metavar="KEY", help="of the endpoint (default: OPENAI_API_KEY)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON instead of a table")
    try:
        options = parser.parse_args(list(arguments))
    except SystemExit as stop:  # argparse, after it has printed the help
        return int(stop.code or 0)
    key = options.api_key or os.environ.get("OPENAI_API_KEY")
    findings = [
        *examine(sandbox_url=options.sandbox_url, base_url=options.base_url, api_key=key),
        *(found for folder in options.checkpoints for found in examine_checkpoint(folder)),
    ]
    findings.sort(key=lambda found: found.level != "wrong")
    if options.json:
        print(json.dumps([asdict(found) for found in findings], indent=1))
    else:
        _show(findings)
    return int(any(found.level == "wrong" for found in findings))


def examine(
    *, sandbox_url: str | None = None, base_url: str | None = None, api_key: str | None = None
) -> list[Finding]:
    """Everything that can be looked at without a model; servers where an address is given."""
    return list(_examinations(sandbox_url or os.environ.get("SANDBOX_FUSION_ENDPOINT"), base_url, api_key))


def _examinations(sandbox_url: str | None, base_url: str | None, api_key: str | None) -> Iterator[Finding]:
    yield examine_program()
    yield examine_names()
    yield from examine_extras()
    yield examine_machine(Path.cwd())
    yield examine_sandbox()
    yield from examine_gpus()
    yield from (examine_port(port, purpose) for port, purpose in PORTS.items())
    if sandbox_url is not None:
        yield examine_sandbox_server(sandbox_url)
    if base_url is not None:
        yield examine_endpoint(base_url, api_key)


def _show(findings: Sequence[Finding]) -> None:
    table = Table("", "", "", show_header=False, box=None, pad_edge=False)
    for found in findings:
        text = f"{found.said}\n-> {found.fix}" if found.fix else found.said
        table.add_row(
            f"[{_COLOURS[found.level]}]{found.level}[/]", found.topic.replace("[", "\\["), text.replace("[", "\\[")
        )
    console = Console()
    console.print(table)
    wrong = sum(found.level == "wrong" for found in findings)
    console.print(f"{wrong} of {len(findings)} are wrong" if wrong else "Nothing is wrong.", highlight=False)
