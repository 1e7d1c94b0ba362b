"""What travels between a SandboxFusion client and server, as pydantic models that both sides of ours share.

The plain fields are SandboxFusion's own, with its names and defaults. Two additions travel beside them, which a
foreign peer ignores: a request may carry ``retool`` (:class:`Wish`) with what SandboxFusion has no word for, and is
then answered with ``retool`` (:class:`Ending`), how the program really ended; ``run_result`` always has ``truncated``.

Differences on purpose: file names that leave the program's directory or exclude each other and contents that are not
base64 are mistakes (status 422), and ``python`` is the only language. Left out: data sets and ``/submit``.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    PositiveInt,
)
from pydantic.functional_validators import AfterValidator

from retool_env.sandbox.base import Fault, Mode, RunStatus, check_files, check_relative

__all__ = [
    "OWN_HEADER",
    "CellResult",
    "CommandResult",
    "Ending",
    "RunCodeRequest",
    "RunCodeResponse",
    "RunJupyterRequest",
    "RunJupyterResponse",
    "Wish",
]

OWN_HEADER: Final = "retool-sandbox"
"""Header by which our server makes itself known in every answer, ``/v1/ping`` included; its value is the version of
the two additions."""

Status = Literal["Success", "Failed", "SandboxError"]
CommandStatus = Literal["Finished", "Error", "TimeLimitExceeded"]


def _inside(name: str) -> str:
    check_relative([name])
    return name


def _contents(value: object) -> object:
    if not isinstance(value, str):
        return value
    # Encoders like base64(1) wrap their lines; anything else outside of the alphabet would be dropped in silence.
    return base64.b64decode("".join(value.split()), validate=True)


def _beside(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    check_files(name for name, data in files.items() if data is not None)
    return files


FileName = Annotated[str, AfterValidator(_inside)]
Contents = Annotated[
    bytes, BeforeValidator(_contents), PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str)
]
Files = Annotated[dict[FileName, Contents | None], AfterValidator(_beside)]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True)


class Wish(_Wire):
    """What a client of ours asks for beyond SandboxFusion's request; see :class:`~retool_env.sandbox.base.Limits`."""

    mode: Mode = "script"
    seed: int = 0
    cpu_seconds: FiniteFloat | None = None
    output_bytes: PositiveInt | None = None
    stop_bytes: PositiveInt | None = None
    subprocesses: bool = False


class Ending(_Wire):
    """How the program ended, in our words; see :class:`~retool_env.sandbox.base.RunResult`."""

    status: RunStatus
    fault: Fault = ""
    signal: int | None = None
    cpu_seconds: float = 0.0
    queue_seconds: float = 0.0
    max_rss_mb: float = 0.0
    tier: str = ""


class RunCodeRequest(_Wire):
    """Body of ``POST /run_code``. ``run_timeout`` is seconds of wall time, ``memory_limit_mb`` <= 0 the default."""

    code: str
    language: Literal["python"]
    stdin: str | None = None
    files: Files = Field(default_factory=dict)
    fetch_files: list[FileName] = Field(default_factory=list)
    compile_timeout: FiniteFloat = 10.0
    run_timeout: FiniteFloat = 10.0
    memory_limit_mb: int = Field(default=-1, alias="memory_limit_MB")
    retool: Wish | None = None


class CommandResult(_Wire):
    """One finished process. ``return_code`` is negative for a signal and null when it was stopped by the limit."""

    status: CommandStatus
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    truncated: bool = False


class RunCodeResponse(_Wire):
    """Answer of ``/run_code``."""

    status: Status
    message: str = ""
    compile_result: CommandResult | None = None
    run_result: CommandResult | None = None
    executor_pod_name: str | None = None
    files: dict[str, Contents] = Field(default_factory=dict)
    retool: Ending | None = None


class RunJupyterRequest(_Wire):
    """Body of ``POST /run_jupyter``. ``cell_timeout`` 0 leaves only ``total_timeout``; both are seconds."""

    cells: list[str]
    cell_timeout: FiniteFloat = 0.0
    total_timeout: FiniteFloat = 45.0
    memory_limit_mb: int = Field(default=-1, alias="memory_limit_MB")
    kernel: Literal["python3"] = "python3"
    files: Files = Field(default_factory=dict)
    fetch_files: list[FileName] = Field(default_factory=list)


class CellError(_Wire):
    """One uncaught exception, as Jupyter reports it."""

    ename: str
    evalue: str
    traceback: list[str] = Field(default_factory=list)


class CellResult(_Wire):
    """What one cell gave. ``display`` holds ``{"text/plain": ...}`` for the value of its last expression."""

    stdout: str = ""
    stderr: str = ""
    display: list[dict[str, str]] = Field(default_factory=list)
    error: list[CellError] = Field(default_factory=list)


class RunJupyterResponse(_Wire):
    """Answer of ``/run_jupyter``; ``driver`` stands for the process that ran the cells."""

    status: Status
    message: str = ""
    driver: CommandResult | None = None
    cells: list[CellResult] = Field(default_factory=list)
    executor_pod_name: str | None = None
    files: dict[str, Contents] = Field(default_factory=dict)
