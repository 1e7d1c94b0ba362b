"""The local sandbox beside other ways to run a program: `python benchmarks/sandbox.py [--fusion-url URL] [--help]`.

F is a bare fork, exit and wait of a process with the same modules imported. Every figure is the median of
``--repetitions`` turns taken one after the other, so a slow minute of the machine touches all of them. With
``--fusion-url`` a SandboxFusion server (from source, on this machine) is measured by the same HTTP client as our own
server, which is started for the purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from retool_env.sandbox import Cancel, Limits, LocalSandbox, RunStatus
from retool_env.sandbox.bench import SCIENCE, TRIVIAL, Program, bare_fork, latency, medians, throughput

CORES = len(os.sched_getaffinity(0))
BARS = {"root": {"plain": 2.2, "spares": 1.5, "rate": 0.40}, "user": {"plain": 3.5, "spares": 2.2, "rate": 0.30}}
BWRAP = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--clearenv",
]


def spawn(command: list[str], program: Program) -> float:
    start = time.perf_counter()
    done = subprocess.run([*command, "-I", "-c", program.code], capture_output=True, text=True, check=True)
    assert done.stdout == program.output
    return time.perf_counter() - start


def bwrap() -> list[str] | None:
    if shutil.which("bwrap") is None:
        return None
    binds = [word for path in ("/usr", "/lib", "/lib64", "/bin", sys.prefix, sys.base_prefix)
             if Path(path).exists() for word in ("--ro-bind", str(Path(path).resolve()), path)]  # fmt: skip
    command = [*BWRAP, *binds, sys.executable]
    works = subprocess.run([*command, "-I", "-c", ""], capture_output=True, check=False).returncode == 0
    return command if works else None


@contextmanager
def own_server() -> Iterator[str]:
    """`retool sandbox serve` on a free port; its address."""
    command = [sys.executable, "-m", "retool_env.cli", "sandbox", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("http"))
        finally:
            server.terminate()


def over_http(url: str, program: Program, concurrency: int, seconds: float) -> float:
    """Runs per second of `/run_code`."""
    body = {"code": program.code, "language": "python", "run_timeout": 30}
    end = time.perf_counter() + seconds

    def work() -> int:
        count = 0
        with httpx.Client(base_url=url, timeout=60) as client:
            while time.perf_counter() < end:
                answer = client.post("/run_code", json=body).json()
                assert answer["run_result"]["stdout"] == program.output, answer
                count += 1
        return count

    with ThreadPoolExecutor(concurrency) as pool:
        start = time.perf_counter()
        total = sum(future.result() for future in [pool.submit(work) for _ in range(concurrency)])
        return total / (time.perf_counter() - start)


def overshoot(sandbox: LocalSandbox) -> float:
    """Seconds that a sleeping program lives beyond its wall limit."""
    limits = Limits(wall_seconds=0.3)
    start = time.perf_counter()
    assert sandbox.run("import time; time.sleep(60)", limits=limits).status is RunStatus.TIMEOUT
    return time.perf_counter() - start - limits.wall_seconds


def cpu_overshoot(sandbox: LocalSandbox) -> float:
    """Processor seconds that a busy program gets beyond its limit."""
    limits = Limits(cpu_seconds=0.3)
    result = sandbox.run("while True: pass", limits=limits)
    assert result.status is RunStatus.TIMEOUT
    return result.cpu_seconds - limits.cpu_seconds


def cancel_to_gone(sandbox: LocalSandbox) -> float:
    """Seconds from the caller's cancel to the end of the run, whose processes are gone by then."""
    cancel = Cancel()
    moment: list[float] = []

    def fire() -> None:
        moment.append(time.perf_counter())
        cancel()

    threading.Timer(0.2, fire).start()
    assert sandbox.run("import time; time.sleep(60)", cancel=cancel).status is RunStatus.CANCELLED
    return time.perf_counter() - moment[0]


def kill_zygote() -> tuple[float, float]:
    """Seconds from a zygote's SIGKILL until its caller is told, and until the next program has run."""
    before = stubs()
    with LocalSandbox(image="light", spares=0) as sandbox, ThreadPoolExecutor(1) as pool:
        sandbox.health()
        (stub,) = stubs() - before
        (zygote,) = (child for child, parent in parents().items() if parent == stub)
        waiting = pool.submit(sandbox.run, "import time; time.sleep(60)")
        time.sleep(0.3)
        start = time.perf_counter()
        os.kill(zygote, signal.SIGKILL)
        assert waiting.result().status is RunStatus.SANDBOX_ERROR
        told = time.perf_counter() - start
        assert sandbox.health().status is RunStatus.OK
        return told, time.perf_counter() - start


def kill_launcher() -> float:
    """Seconds from the SIGKILL of a process with running programs until nothing of its sandbox is alive."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool\nfrom retool_env.sandbox import LocalSandbox\n"
        "sandbox = LocalSandbox(image='light', max_running=8)\nsandbox.health()\nprint(flush=True)\n"
        "with Pool(8) as pool: list(pool.map(sandbox.run, ['import time; time.sleep(60)'] * 8))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        time.sleep(0.5)
        family = descendants(launcher.pid)
        assert len(family) >= 8
        start = time.perf_counter()
        launcher.kill()
        while any(alive(pid) for pid in family):
            time.sleep(0.002)
        return time.perf_counter() - start


def parents() -> dict[int, int]:
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            found[int(entry.parent.name)] = int(parent)
    return found


def descendants(pid: int) -> list[int]:
    table, found = parents(), [pid]
    for one in found:
        found += [child for child, parent in table.items() if parent == one]
    return found[1:]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def stubs() -> set[int]:
    """Our own children: the processes that stay outside of their zygotes' namespaces."""
    return {child for child, parent in parents().items() if parent == os.getpid()}


def measures(stack: ExitStack, fusion_url: str | None, seconds: float) -> dict[str, Callable[[], float]]:
    plain = stack.enter_context(LocalSandbox(image="science", spares=0))
    ready = stack.enter_context(LocalSandbox(image="science"))
    unsafe = stack.enter_context(LocalSandbox(image="science", tier="T3", unsafe=True, spares=0))
    for sandbox in (plain, ready, unsafe):
        sandbox.health()
    python = [sys.executable]
    found: dict[str, Callable[[], float]] = {
        "F": lambda: bare_fork("science"),
        "one at a time": lambda: latency(plain, TRIVIAL),
        "with ready spares": lambda: latency(ready, TRIVIAL, pause=0.02),
        "without isolation (T3)": lambda: latency(unsafe, TRIVIAL),
        **{
            f"{count} callers, runs/s": lambda count=count: throughput(ready, TRIVIAL, count, seconds)
            for count in (CORES, 4 * CORES, 128)
        },
        "numpy+sympy": lambda: latency(ready, SCIENCE, times=20),
        "python -I -c": lambda: spawn(python, TRIVIAL),
        "python -I -c, numpy+sympy": lambda: spawn(python, SCIENCE),
        "wall limit overshoot": lambda: overshoot(plain),
        "processor limit overshoot": lambda: cpu_overshoot(plain),
        "cancel to gone": lambda: cancel_to_gone(plain),
        "zygote killed: caller told": lambda: kill_zygote()[0],
        "zygote killed: next run": lambda: kill_zygote()[1],
        "launcher killed: all gone": kill_launcher,
    }
    if (command := bwrap()) is not None:
        found["bwrap python -I -c"] = lambda: spawn(command, TRIVIAL)
    if fusion_url is not None:
        own = stack.enter_context(own_server())
        for name, url in (("our server", own), ("SandboxFusion", fusion_url)):
            over_http(url, SCIENCE, 1, 0.1)
            for kind, program, span in (("trivial", TRIVIAL, seconds), ("numpy+sympy", SCIENCE, 4 * seconds)):
                found[f"{name}, {kind}, runs/s"] = lambda url=url, program=program, span=span: over_http(
                    url, program, 4 * CORES, span
                )
    return found


def verdicts(found: dict[str, float]) -> list[tuple[str, str, bool]]:
    """Each bar: what, figure with the bar, whether it is met."""
    bars = BARS["root" if os.geteuid() == 0 else "user"]
    fork = found["F"]
    plain, spares = found["one at a time"] / fork, found["with ready spares"] / fork
    isolation = 1000 * (found["one at a time"] - found["without isolation (T3)"])
    rates = [found[f"{count} callers, runs/s"] for count in (CORES, 4 * CORES, 128)]
    rate = rates[1] * fork / CORES
    spread = max(rates) / min(rates) - 1
    warm = found["python -I -c, numpy+sympy"] / found["numpy+sympy"]
    rows = [
        ("one at a time", f"{plain:.2f} F (at most {bars['plain']})", plain <= bars["plain"]),
        ("with ready spares", f"{spares:.2f} F (at most {bars['spares']})", spares <= bars["spares"]),
        ("isolation costs", f"{isolation:.2f} ms (at most 1)", isolation <= 1),
        ("4 x cores callers", f"{rate:.2f} x cores/F (at least {bars['rate']})", rate >= bars["rate"]),
        (f"{CORES} to 128 callers", f"{100 * spread:.0f} % apart (at most 15)", spread <= 0.15),
        ("numpy+sympy against cold", f"{warm:.1f}x (at least 15)", warm >= 15),
    ]
    for name in ("wall limit overshoot", "processor limit overshoot", "cancel to gone"):
        rows.append((name, f"{1000 * found[name]:.1f} ms (at most 50)", found[name] <= 0.05))
    for name, most in (
        ("zygote killed: caller told", 0.5),
        ("zygote killed: next run", 3.0),
        ("launcher killed: all gone", 1.0),
    ):
        rows.append((name, f"{1000 * found[name]:.0f} ms (at most {1000 * most:.0f})", found[name] <= most))
    for kind, least in (("trivial", 3), ("numpy+sympy", 15)):
        if (theirs := found.get(f"SandboxFusion, {kind}, runs/s")) is not None:
            times = found[f"our server, {kind}, runs/s"] / theirs
            rows.append((f"SandboxFusion, {kind}", f"{times:.1f}x its runs/s (at least {least})", times >= least))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fusion-url", help="a SandboxFusion server to measure beside ours, e.g. http://localhost:8080"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each throughput measurement")
    parser.add_argument("--json", type=Path, help="write the medians here")
    options = parser.parse_args()
    with ExitStack() as stack:
        found = medians(measures(stack, options.fusion_url, options.seconds), options.repetitions)
    console = Console()
    table = Table(title=f"medians of {options.repetitions}, {CORES} processors, load {os.getloadavg()[0]:.1f}")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:.1f}" if name.endswith("runs/s") else f"{1000 * value:.2f} ms")
    console.print(table)
    rows = verdicts(found)
    for what, figure, met in rows:
        console.print(f"{'met ' if met else 'MISSED'}  {what}: {figure}", highlight=False)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2))
    return 0 if all(met for _, _, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
