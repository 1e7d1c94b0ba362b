"""Runs the commands that README and docs show, as a new user would: ``python -m tests.run_docs [--small] [PAGE ...]``.

README comes first. Every page gets a folder with a copy of the checkout, the runs that README's commands made, the
files that the page asks to save, and small data files under the names that it uses. There the page's commands run one
after another, as they are written, in a shell without the caller's variables, with an empty home directory and, where
the kernel lets us, without any network but loopback. A command that ends otherwise than its page says is a failure;
every line that cannot be run here is printed with the reason, from one table (``tests/doc_commands.py``).

``--small`` appends settings that make trainings and evaluations short: whether a command runs is then tested, not what
comes out of it. Left out: ``make``, which has an environment of its own; try it in a clone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.doc_commands import ROOT, Shown, commands, elsewhere, pages, saved_files, split
from tests.doc_data import write_data

BIN: Final = Path(sys.executable).parent
OFFLINE: Final = "RETOOL_DOCS_OFFLINE"
CHECKPOINT: Final = "runs/sft/checkpoints/final"
SERVES: Final = re.compile(r"(?:\w+=\S+ )*retool sandbox serve(?!.*--help).*|tensorboard .*")

# Exit codes other than 0 that are what the page says.
CODES: Final = {
    r"retool doctor --sandbox-url .*": 1,
    r"retool plan experiment=retool_qwen2\.5_32b_grpo gpus=8 nodes=1": 1,
}
# What a person would type.
TYPED: Final = {r"retool play.*": "The answer is \\boxed{0}.\n.\n"}
# Settings of --small, behind the line's own; of a key that is given twice the later one counts.
SMALL: Final = {
    "sft": "threads=1 eval.problems.size=8 eval.greedy=false",
    "train": "threads=1 algo.steps=2 algo.prompts_per_step=4 algo.group_size=4 eval.problems.size=8 eval.every=0",
    "demo": "sft.traces.num=400 grpo.algo.steps=1 strategic.algo.steps=1 sft.eval.problems.size=8 "
    "grpo.eval.problems.size=8 strategic.eval.problems.size=8",
    "eval": "problems.size=6",
}
SHORT_TRACES: Final = "traces.num=400"


class Unserved(Exception):
    """A server ended before it said where it is."""


@dataclass(kw_only=True)
class Tally:
    """What became of the lines."""

    ran: int = 0
    failed: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


def main() -> int:
    """Run them; 0 when all did what their page says."""
    parser = argparse.ArgumentParser(description="Run the commands of README and docs.")
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="e.g. README.md docs/tutorial.md; all by default")
    parser.add_argument("--small", action="store_true", help="short trainings and evaluations")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there and leave it; default: a folder that goes")
    options = parser.parse_args()
    _leave_the_network()
    chosen = [page for page in pages() if not options.pages or str(page.relative_to(ROOT)) in options.pages]
    tally = Tally()
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retool-docs-")))
        (work / "home").mkdir(parents=True, exist_ok=True)
        for page in chosen:
            _run_page(page, work, tally, small=options.small)
    print(f"\n{tally.ran} ran, {len(tally.failed)} failed, {len(tally.elsewhere)} cannot be run here")
    for name in tally.failed:
        print(f"failed: {name}")
    return int(bool(tally.failed))


def _leave_the_network() -> None:
    """Go on in a network namespace of our own, in which only loopback is up; once."""
    if OFFLINE in os.environ:
        return
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", "tests.run_docs", *sys.argv[1:]]
    for unshare in (["unshare", "-n"], ["unshare", "-rn"]):
        allowed = subprocess.run([*unshare, "sh", "-c", "ip link set lo up"], capture_output=True, check=False)
        if allowed.returncode == 0:
            os.execvpe(unshare[0], [*unshare, *inside], {**os.environ, OFFLINE: "1"})
    print("the network cannot be left here: offline is not tested")


def _run_page(page: Path, work: Path, tally: Tally, *, small: bool) -> None:
    shown = commands(page)
    if not any(not elsewhere(line.text) for line in shown):
        tally.elsewhere += [line.name for line in shown]
        return
    folder = _prepare(page, work, shown)
    print(f"\n{page.relative_to(ROOT)}", flush=True)
    with contextlib.ExitStack() as stack:
        for line in shown:
            if reason := elsewhere(line.text):
                tally.elsewhere.append(line.name)
                print(f"  not here ({reason}): {line.text}", flush=True)
                continue
            try:
                with _companion(line.text, folder, work / "home"):
                    right = _run(line, folder, work / "home", stack, small=small)
            except Unserved as error:
                print(f"    FAILED: {error}")
                right = False
            if not right:
                tally.failed.append(f"{line.name}  {line.text}")
            tally.ran += 1


def _prepare(page: Path, work: Path, shown: Sequence[Shown]) -> Path:
    """The page's folder: the checkout, README's runs, saved files, data."""
    folder = work / page.stem
    if not folder.is_dir():
        names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(names, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    readme = work / "README"
    if page.name != "README.md" and (readme / "runs").is_dir() and not (folder / "runs").exists():
        shutil.copytree(readme / "runs", folder / "runs")
        for out in re.findall(r"\bout=(\S+)", " ".join(line.text for line in shown)):
            shutil.rmtree(folder / out, ignore_errors=True)
    for name, text in saved_files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    write_data(folder)
    return folder


def _environment(folder: Path, home: Path) -> dict[str, str]:
    path = f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    return {"HOME": str(home), "PATH": path, "PYTHONPATH": str(folder), "LANG": "C.UTF-8", "TERM": "dumb"}


@contextlib.contextmanager
def _companion(line: str, folder: Path, home: Path) -> Iterator[None]:
    """The server that a line talks to, while it runs: the tests' own for the protocol, in front of a real model."""
    command = ""
    if match := re.search(r"agent\.url=http://127\.0\.0\.1:(\d+)", line):
        command = f"python -m tests.agents.fake_sglang {CHECKPOINT} --port {match[1]}"
    elif "--agent openai" in line:
        command = f"python -m tests.agents.checkpoint_server {CHECKPOINT} --port 8000"
    if not command:
        yield
        return
    with _serving(command, folder, home):
        yield


@contextlib.contextmanager
def _serving(command: str, folder: Path, home: Path) -> Iterator[None]:
    """A server in the background, from its first line of output to the end of the block."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env=_environment(folder, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = []
        while not said or "http://" not in said[-1]:
            if not (row := process.stdout.readline()):
                raise Unserved(f"{command}: {' '.join(said[-3:])}")
            said.append(row.strip())
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def _run(line: Shown, folder: Path, home: Path, stack: contextlib.ExitStack, *, small: bool) -> bool:
    """Run a line; whether it ended as its page says. A server stays up until the page is done."""
    start = time.monotonic()
    print(f"  {line.text}", flush=True)
    if SERVES.fullmatch(line.text):
        variables, command = re.fullmatch(r"((?:\w+=\S+ )*)(.*)", line.text).groups()  # type: ignore[union-attr]
        stack.enter_context(_serving(f"env {variables}{command}", folder, home))
        return True
    text = _shortened(line.text) if small else line.text
    typed = next((keys for pattern, keys in TYPED.items() if re.fullmatch(pattern, line.text)), "")
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=_environment(folder, home),
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )
    expected = next((code for pattern, code in CODES.items() if re.fullmatch(pattern, line.text)), 0)
    right = done.returncode == expected
    log = folder / "docs-log" / f"{line.line}.txt"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"$ {text}\n{done.stdout}{done.stderr}", encoding="utf-8")
    note = "" if right else f"    FAILED with {done.returncode} instead of {expected}:\n{_tail(done)}\n"
    print(f"{note}    {time.monotonic() - start:.0f} s", flush=True)
    return right


def _shortened(text: str) -> str:
    """The line with the settings of ``--small`` behind it."""
    programs = split(text)
    if len(programs) != 1 or programs[0][0] != "retool" or programs[0][1] not in SMALL or "--help" in programs[0]:
        return text
    command, *arguments = programs[0][1:]
    # After a short cold start nothing is solved, and every other band is empty.
    text = re.sub(r"problems\.band=\[[^]]*\]", "problems.band=[0,1]", text)
    if "rollout.replay" in text:
        return f"{text} threads=1 algo.steps=2 algo.prompts_per_step=4 algo.group_size=4"
    traces = SHORT_TRACES if command == "sft" else ""
    if "--suite" in arguments:
        return text
    return f"{text} {SMALL[command]} {traces}".strip()


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(f"      {row}" for row in (done.stdout + done.stderr).splitlines()[-12:])


if __name__ == "__main__":
    sys.exit(main())
