"""From what the user asked for to the command lines of the servers, and of the router in front of them.

Left out: every option of SGLang that nothing here has to understand; it is passed on as it is.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agents.serve.dtype import served_dtype
from agents.serve.interpreter import Installation
from agents.serve.process import ServerSpec
from retool_env.errors import UsageError

__all__ = ["LAUNCHER", "ServeOptions", "notes", "router_spec", "server_specs"]

LAUNCHER: Final = "sglang.launch_server"
_OURS: Final = {
    "--model-path": "MODEL",
    "--model": "MODEL",
    "--host": "--host",
    "--port": "--port",
    "--tp": "--tp",
    "--tp-size": "--tp",
    "--tensor-parallel-size": "--tp",
    "--dtype": "--dtype",
}


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve, and how.

    Attributes:
        model: folder or name of the checkpoint.
        host: address to listen at.
        port: of the first replica; the others follow it.
        tp: GPUs for each replica.
        replicas: servers with the whole model each.
        dtype: of the weights; ``None`` for that of the checkpoint; of a float32 folder bfloat16 on GPUs.
        launcher: module that starts a server.
        logs: folder of the log files.
        rest: further arguments of SGLang, as they are.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 30000
    tp: int = 1
    replicas: int = 1
    dtype: str | None = None
    launcher: str = LAUNCHER
    logs: Path = Path("runs/serve")
    rest: tuple[str, ...] = ()


def server_specs(options: ServeOptions, installation: Installation) -> tuple[ServerSpec, ...]:
    """One for each replica. Raises :class:`UsageError` for what cannot work."""
    _check(options)
    options = _with_dtype(options)
    devices = _shares(options)
    return tuple(
        ServerSpec(
            command=_command(options, installation, options.port + k),
            host=options.host,
            port=options.port + k,
            log=options.logs / f"server-{options.port + k}.log",
            env={"CUDA_VISIBLE_DEVICES": devices[k]} if devices else {},
        )
        for k in range(options.replicas)
    )


def router_spec(options: ServeOptions, installation: Installation, port: int) -> ServerSpec:
    """SGLang's router in front of the replicas. Raises :class:`UsageError` when it is not installed."""
    if installation.version_of("sglang-router") is None:
        raise UsageError(f"--router needs sglang-router: {installation.python} -m pip install sglang-router==0.3.2")
    specs = server_specs(options, installation)
    command = [str(installation.python), "-m", "sglang_router.launch_router", "--host", options.host]
    command += ["--port", str(port), "--worker-urls", *(spec.url for spec in specs)]
    return ServerSpec(
        command=tuple(command),
        host=options.host,
        port=port,
        log=options.logs / f"router-{port}.log",
        ready_path="/readiness",  # its /health says nothing about the servers
    )


def notes(options: ServeOptions) -> list[str]:
    """What the user should know of these servers before they start."""
    found = []
    if (dtype := _with_dtype(options).dtype) != options.dtype:
        found.append(f"the checkpoint is float32 and there is no --dtype: serving it in {dtype}")
    if not (_is_loopback(options.host) or _has_key(options.rest)):
        found.append(
            f"warning: --host {options.host} without a key: whoever reaches it can use the servers and change their "
            "weights; add `-- --api-key KEY`, and agent.api_key=KEY for clients"
        )
    return found


def _with_dtype(options: ServeOptions) -> ServeOptions:
    """With the type said that SGLang would choose badly."""
    if options.dtype is not None:
        return options
    gpus = not _on_cpu(options.rest) and bool(_devices())
    return replace(options, dtype=served_dtype(options.model, gpus=gpus))


def _is_loopback(host: str) -> bool:
    """Only this machine reaches such an address. Names other than localhost are not looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _has_key(rest: tuple[str, ...]) -> bool:
    return any(argument.partition("=")[0] == "--api-key" for argument in rest)


def _check(options: ServeOptions) -> None:
    for argument in options.rest:
        if ours := _OURS.get(argument.partition("=")[0]):
            raise UsageError(f"{argument.partition('=')[0]} behind `--`: give it to retool itself, as {ours}")
    if options.port + options.replicas > 65536:
        raise UsageError(f"--port {options.port}: the last replica's port would be above 65535")
    path = Path(options.model).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise UsageError(f"{options.model!r} is no checkpoint: it has no config.json")
    if not path.exists() and (path.is_absolute() or options.model.startswith((".", "~"))):
        raise UsageError(f"no checkpoint at {options.model!r}; give a folder, or the name of a model on the hub")


def _command(options: ServeOptions, installation: Installation, port: int) -> tuple[str, ...]:
    path = Path(options.model).expanduser()
    command = [str(installation.python), "-m", options.launcher]
    command += ["--model-path", str(path.absolute()) if path.is_dir() else options.model]
    command += ["--host", options.host, "--port", str(port)]
    if options.tp > 1:
        command += ["--tp-size", str(options.tp)]
    if options.dtype is not None:
        command += ["--dtype", options.dtype]
    return (*command, *options.rest)


def _shares(options: ServeOptions) -> list[str]:
    """The GPUs of each replica, or nothing where SGLang may choose: one replica, or no GPU."""
    if options.replicas == 1 or _on_cpu(options.rest):
        return []
    devices = _devices()
    if not devices:
        raise UsageError("--replicas: found no GPU (nvidia-smi), so none can be shared out; on a CPU: -- --device cpu")
    needed = options.replicas * options.tp
    if needed > len(devices):
        raise UsageError(
            f"{options.replicas} replicas with {options.tp} GPUs each need {needed}, and there are {len(devices)}: "
            f"{','.join(devices)}; lower --replicas or --tp"
        )
    return [",".join(devices[k * options.tp : (k + 1) * options.tp]) for k in range(options.replicas)]


def _on_cpu(rest: tuple[str, ...]) -> bool:
    return "--device=cpu" in rest or ("--device", "cpu") in itertools.pairwise(rest)


def _devices() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES writes them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []
