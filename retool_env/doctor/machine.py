"""The machine: processors, memory, disk, isolation of programs, GPUs, and the ports that servers usually take."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import httpx

from retool_env.doctor.finding import Finding
from retool_env.errors import SandboxError, UsageError
from retool_env.sandbox import LocalSandbox

__all__ = ["PORTS", "examine_gpus", "examine_machine", "examine_port", "examine_sandbox"]

PORTS: Final = {
    8000: "a chat endpoint (`--base-url`)",
    8080: "`retool sandbox serve`, or SandboxFusion",
    29500: "torchrun's meeting point (`--rdzv-endpoint`)",
    30000: "`retool serve`, the first of the SGLang servers",
}
_GIB: Final = 2**30
_LITTLE_DISK: Final = 5 * _GIB
_LITTLE_MEMORY: Final = 2 * _GIB
_QUERY: Final = ("index", "name", "memory.total", "memory.used")


def examine_machine(folder: Path) -> Finding:
    """Processors, memory that is available, room on the disk of ``folder``."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory, disk = _available_memory(), shutil.disk_usage(folder).free
    said = f"{processors} processors, {_gib(memory)} of memory available, {_gib(disk)} of disk free here"
    if disk < _LITTLE_DISK:
        fix = "checkpoints need room: keep_last=2 keeps the newest only; or choose another out=..."
        return Finding(topic="machine", said=said, level="note", fix=fix)
    if memory < _LITTLE_MEMORY:
        fix = "`retool demo` takes about 1.1 GiB; end other programs, or lower rollout.num_slots and num_slots"
        return Finding(topic="machine", said=said, level="note", fix=fix)
    return Finding(topic="machine", said=said)


def _available_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def examine_sandbox() -> Finding:
    """Run a program in the local sandbox, in the strongest tier that this host allows."""
    try:
        with LocalSandbox(image="light") as sandbox:
            result = sandbox.health()
    except (UsageError, SandboxError, RuntimeError) as error:
        fix = "`retool sandbox doctor` tries every tier; or use a server: env.sandbox=fusion:http://host:8080"
        return Finding(topic="sandbox", said=str(error), level="wrong", fix=fix)
    if result.stdout != "ok\n":
        said = f"a one-line program ended as {result.status.value}: {result.stderr.strip()}"
        return Finding(topic="sandbox", said=said, level="wrong", fix="`retool sandbox doctor` says more")
    return Finding(topic="sandbox", said=f"programs run isolated, tier {result.tier}")


@dataclass(frozen=True, kw_only=True)
class _Gpu:
    index: str
    name: str
    total_mib: int
    used_mib: int


def examine_gpus() -> list[Finding]:
    """GPUs as the driver sees them, which of them are taken, and whether torch was built for them."""
    gpus = _gpus()
    if isinstance(gpus, str):
        return [Finding(topic="GPUs", said=gpus, level="note")]
    findings = [_describe(gpu) for gpu in gpus]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = {gpu.index for gpu in gpus}
    asked = [name.strip() for name in (visible or "").split(",") if name.strip()]
    if unknown := [name for name in asked if name.isdigit() and name not in known]:
        said = f"CUDA_VISIBLE_DEVICES={visible} names {', '.join(unknown)}, but there are {', '.join(sorted(known))}"
        fix = "a training has as many ranks as `torchrun --nproc-per-node` says; model.parallel.sequence divides them"
        findings.append(Finding(topic="GPUs", said=said, level="wrong", fix=fix))
    if (torch := _torch_version()) is not None and torch.endswith("+cpu"):
        said = f"torch {torch} is a build for CPUs"
        fix = f"pip install --force-reinstall torch=={torch.partition('+')[0]}, without an index of CPU builds"
        findings.append(Finding(topic="GPUs", said=said, level="wrong", fix=fix))
    return findings


def _gpus() -> list[_Gpu] | str:
    """The list, or why there is none."""
    if shutil.which("nvidia-smi") is None:
        return "none found (there is no nvidia-smi); the tiny model and the evaluation of endpoints need none"
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"nvidia-smi failed: {' '.join((done.stdout + done.stderr).split())}"
    rows = [[cell.strip() for cell in row] for row in csv.reader(done.stdout.splitlines())]
    return [_Gpu(index=index, name=name, total_mib=int(total), used_mib=int(used)) for index, name, total, used in rows]


def _describe(gpu: _Gpu) -> Finding:
    topic, total = f"GPU {gpu.index}", gpu.total_mib / 1024
    if gpu.used_mib * 20 < gpu.total_mib:
        return Finding(topic=topic, said=f"{gpu.name}, {total:.0f} GiB")
    said = f"{gpu.name}: {gpu.used_mib / 1024:.0f} of {total:.0f} GiB are taken already"
    fix = "see `nvidia-smi` for who holds it, or leave this GPU out of CUDA_VISIBLE_DEVICES"
    return Finding(topic=topic, said=said, level="note", fix=fix)


def _torch_version() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


def examine_port(port: int, purpose: str) -> Finding:
    """Whether a port on this machine is free, and who answers if it is not."""
    topic = f"port {port}"
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return Finding(topic=topic, said=f"free; for {purpose}")
    who = next(_answers(port), "something that is none of ours")
    return Finding(topic=topic, said=f"taken by {who}; usual place of {purpose}", level="note")


def _answers(port: int) -> Iterator[str]:
    """What the program behind a port calls itself."""
    paths = {"/v1/ping": "a sandbox server", "/model_info": "an SGLang server", "/v1/models": "a chat endpoint"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=1.0, trust_env=False) as client:
        for path, name in paths.items():
            try:
                answer = client.get(path)
            except httpx.HTTPError:
                return
            if answer.status_code in (200, 401, 403):
                yield name


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB"
