"""Threads that sleep while they wait for each other, or spin: `python benchmarks/waiting.py [TRACES]`.

One short cold start of the demo's model alone, and two beside each other, each with as many threads as there are
processors (the default), with ``OMP_WAIT_POLICY`` ``passive`` (what ``retool`` sets) and ``active`` (what torch has by
itself). Wall seconds until the last of them is done, imports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLICIES = ("passive", "active")


def seconds(policy: str, num: int, traces: int, folder: Path) -> float:
    """How long ``num`` cold starts at once take."""
    begun = time.perf_counter()
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "retool_env.cli", "sft", "experiment=tiny_sft", "threads=null"),
                *(f"traces.num={traces}", "eval.problems.size=10", f"out={folder / f'{policy}-{num}-{k}'}"),
            ],
            env=os.environ | {"OMP_WAIT_POLICY": policy},
            stdout=subprocess.DEVNULL,
        )
        for k in range(num)
    ]
    codes = [process.wait() for process in running]
    assert not any(codes), codes
    return time.perf_counter() - begun


def main() -> None:
    traces = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("| runs at once | passive | active | |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        for num in (1, 2):
            passive, active = (seconds(policy, num, traces, Path(name)) for policy in POLICIES)
            print(f"| {num} | {passive:.1f} s | {active:.1f} s | {active / passive:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
