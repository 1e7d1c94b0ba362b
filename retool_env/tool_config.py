"""Tool files of other ReTool guides: which interpreter the policy may call, and where it runs.

Two shapes are read, both a YAML file with a list ``tools``. The short one of the ReTool guides::

    tools:
      - name: code_interpreter
        type: SandboxFusionTool
        config: {base_url: "http://localhost:8080", timeout: 30}

and verl's, with ``class_name``, ``config.sandbox_fusion_url``, ``config.default_timeout`` and a ``tool_schema``. Both
become :class:`SandboxTool`. Of verl's worker settings ``rate_limit`` is kept as the number of connections;
``num_workers``, ``enable_global_rate_limit`` and the schema beyond its name are read and have no effect, because
threads are the caller's, the limit is the server's, and the schema is written by the dialect.

Left out: tools that are no code interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import PositiveFloat, PositiveInt, model_validator

from retool_env.config import Config, check_config
from retool_env.errors import UsageError, did_you_mean
from retool_env.sandbox.base import Limits, Sandbox

__all__ = ["SandboxTool", "load_tool_config", "open_tool"]

_TYPES: Final = ("SandboxFusionTool", "CustomSandboxFusionTool")
_KEYS: Final = ("name", "type", "class_name", "config", "tool_schema")
_NAME: Final = "code_interpreter"


@dataclass(frozen=True, kw_only=True)
class SandboxTool:
    """A code interpreter on a SandboxFusion server.

    Attributes:
        name: what the policy calls.
        url: the server; ``None`` for ``SANDBOX_FUSION_ENDPOINT``.
        timeout: seconds of one program.
        memory_mb: MiB of one program.
        max_connections: programs at the same time.
    """

    name: str = _NAME
    url: str | None = None
    timeout: float = 30.0
    memory_mb: int = 1024
    max_connections: int = 128

    @property
    def sandbox(self) -> str:
        """The name under which :func:`~retool_env.sandbox.open_sandbox` knows the server."""
        return f"fusion:{self.url}" if self.url else "fusion"

    @property
    def limits(self) -> Limits:
        """``timeout`` as both processor and wall time, because SandboxFusion has one number for them."""
        return Limits(cpu_seconds=self.timeout, wall_seconds=self.timeout, memory_mb=self.memory_mb)


class _FusionConfig(Config):
    """The section ``config`` of one tool, in either shape."""

    base_url: str | None = None
    sandbox_fusion_url: str | None = None
    timeout: PositiveFloat | None = None
    default_timeout: PositiveFloat | None = None
    memory_limit_mb: PositiveInt = 1024
    rate_limit: PositiveInt = 128
    num_workers: PositiveInt = 128
    enable_global_rate_limit: bool = True
    default_language: Literal["python"] = "python"
    type: Literal["native"] = "native"

    @model_validator(mode="after")
    def _one_of_each(self) -> _FusionConfig:
        for short, long in (("base_url", "sandbox_fusion_url"), ("timeout", "default_timeout")):
            if getattr(self, short) is not None and getattr(self, long) is not None:
                raise ValueError(f"{short} and {long} mean the same; keep one of them")
        return self


def load_tool_config(path: str | Path) -> tuple[SandboxTool, ...]:
    """The tools of a YAML file.

    Raises:
        UsageError: no such file, no YAML, or a key, a type or a value that is not understood.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"tool file {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"tool file {str(path)!r} is no YAML: {' '.join(str(error).split())}") from error
    tools = content.get("tools") if isinstance(content, Mapping) else None
    if not isinstance(tools, list) or not tools:
        raise UsageError(f"tool file {str(path)!r}: expected a list 'tools' with at least one entry")
    loaded = tuple(_tool(entry, f"tools[{number}]") for number, entry in enumerate(tools))
    names = [tool.name for tool in loaded]
    if len(set(names)) < len(names):
        raise UsageError(f"tool file {str(path)!r}: two tools have the same name; names are {', '.join(names)}")
    return loaded


def open_tool(tool: SandboxTool) -> tuple[Sandbox, Limits]:
    """The sandbox that ``tool`` names, which the caller closes, and the limits of each program."""
    from retool_env.sandbox.fusion.client import FusionSandbox

    return FusionSandbox(tool.url, max_connections=tool.max_connections), tool.limits


def _tool(entry: Any, where: str) -> SandboxTool:
    if not isinstance(entry, Mapping):
        raise UsageError(f"{where}={entry!r}: expected a mapping with 'type' and 'config'")
    for key in entry:
        if key not in _KEYS:
            raise UsageError(f"unknown key '{where}.{key}'{did_you_mean(str(key), _KEYS)}")
    _check_type(entry, where)
    section = entry.get("config") or {}
    if not isinstance(section, Mapping):
        raise UsageError(f"{where}.config={section!r}: expected a mapping")
    config = check_config(_FusionConfig, section, where=f"{where}.config")
    tool = SandboxTool(
        name=_name(entry, where),
        url=config.base_url or config.sandbox_fusion_url,
        timeout=config.timeout or config.default_timeout or SandboxTool.timeout,
        memory_mb=config.memory_limit_mb,
        max_connections=config.rate_limit,
    )
    tool.limits  # noqa: B018  raises what Limits refuses, here and not at the first call
    return tool


def _check_type(entry: Mapping[str, Any], where: str) -> None:
    """The class by its last name, because verl writes the whole path of a class that is not installed here."""
    given = [key for key in ("type", "class_name") if key in entry]
    if len(given) != 1:
        raise UsageError(f"{where}: needs 'type: SandboxFusionTool' (or verl's 'class_name'), once")
    name = str(entry[given[0]]).rpartition(".")[2]
    if name not in _TYPES:
        raise UsageError(f"{where}.{given[0]}={entry[given[0]]!r} is unknown{did_you_mean(name, _TYPES)}")


def _name(entry: Mapping[str, Any], where: str) -> str:
    """The tool's own name, or the one of its schema."""
    schema = entry.get("tool_schema") or {}
    function = schema.get("function") if isinstance(schema, Mapping) else None
    inner = function.get("name") if isinstance(function, Mapping) else None
    name = entry.get("name") or inner or _NAME
    if not isinstance(name, str):
        raise UsageError(f"{where}.name={name!r}: expected text")
    return name
