"""What the SandboxFusion endpoints do, from the bytes of a request to the bytes of the answer; no HTTP in here.

A :class:`Service` is synchronous and thread-safe, like the sandbox under it. Whatever a program does is status 200
and told in the body; 422 is a request that cannot be run, with pydantic's list of mistakes; 429 a full queue.

Left out: connections, tokens and the size of bodies (``server``), notebooks (``notebook``).
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ValidationError

from retool_env.errors import UsageError
from retool_env.sandbox.base import MIN_SECONDS, Cancel, Limits, RunResult, RunStatus, Sandbox
from retool_env.sandbox.fusion.notebook import Notebook, run_notebook
from retool_env.sandbox.fusion.wire import (
    CommandResult,
    Ending,
    RunCodeRequest,
    RunCodeResponse,
    RunJupyterRequest,
    RunJupyterResponse,
    Wish,
)

__all__ = ["Bounds", "Reply", "Service"]

_POD = os.environ.get("MY_POD_NAME")
_DEFAULT = Limits()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one request may ask for at most, and what it gets of things the protocol has no word for.

    Attributes:
        max_seconds: of ``run_timeout`` and of ``total_timeout``.
        max_memory_mb: of ``memory_limit_MB``.
        output_bytes: kept of each of stdout and stderr; see :class:`~retool_env.sandbox.base.Limits`.
        stop_bytes: a program that writes more is stopped.
        subprocesses: whether programs may start other processes.
        max_notebooks: open at the same time; each has an interpreter of its own even while it waits.
    """

    max_seconds: float = 600.0
    max_memory_mb: int = 8192
    output_bytes: int = 2 << 20
    stop_bytes: int = 16 << 20
    subprocesses: bool = False
    max_notebooks: int = 64

    def limits(self, name: str, seconds: float, *, memory_mb: int, wish: Wish | None = None) -> Limits:
        """The limits of a request that asks for ``seconds`` under ``name``. Raises :class:`_Mistake`."""
        self._check_seconds(name, seconds)
        if memory_mb > self.max_memory_mb:
            raise _mistake("memory_limit_MB", f"Input should be less than or equal to {self.max_memory_mb}")
        # Whoever cannot ask for sub-processes gets what the server allows.
        wish = wish or Wish(subprocesses=self.subprocesses)
        cpu_seconds = seconds if wish.cpu_seconds is None else wish.cpu_seconds
        self._check_seconds("cpu_seconds", cpu_seconds)
        if wish.subprocesses and not self.subprocesses:
            raise _mistake("subprocesses", "Input should be false: this server does not allow sub-processes")
        return Limits(
            cpu_seconds=max(cpu_seconds, MIN_SECONDS),
            wall_seconds=max(seconds, MIN_SECONDS),
            memory_mb=memory_mb if memory_mb > 0 else _DEFAULT.memory_mb,
            output_bytes=min(wish.output_bytes or self.output_bytes, self.output_bytes),
            stop_bytes=min(wish.stop_bytes or self.stop_bytes, self.stop_bytes),
            subprocesses=wish.subprocesses,
        )

    def _check_seconds(self, name: str, seconds: float) -> None:
        if seconds > self.max_seconds:
            raise _mistake(name, f"Input should be less than or equal to {self.max_seconds:g}")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Status, headers beyond the usual ones, and JSON text."""

    code: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class _Mistake(Exception):
    """A request that cannot be run; carries the ``detail`` of the answer."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.detail = detail


def _mistake(name: str, message: str) -> _Mistake:
    return _Mistake([{"type": "value_error", "loc": ["body", name], "msg": message}])


R = TypeVar("R", bound=BaseModel)


def _parse(kind: type[R], body: bytes) -> R:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        # Through JSON, because a context may hold an exception; without the input, which may be megabytes.
        detail = json.loads(error.json(include_url=False, include_input=False))
        raise _Mistake([{**entry, "loc": ["body", *entry["loc"]]} for entry in detail]) from error


def _command(result: RunResult) -> CommandResult:
    if result.status in (RunStatus.SANDBOX_ERROR, RunStatus.CANCELLED):
        return CommandResult(status="Error", stderr=result.stderr)
    timeout = result.status is RunStatus.TIMEOUT
    code = -(result.signal or 9) if result.exit_code is None else result.exit_code
    return CommandResult(
        status="TimeLimitExceeded" if timeout else "Finished",
        execution_time=result.wall_seconds,
        return_code=None if timeout else code,
        stdout=result.stdout,
        stderr=result.stderr,
        truncated=result.truncated,
    )


def _ending(result: RunResult) -> Ending:
    return Ending(
        status=result.status,
        fault=result.fault,
        signal=result.signal,
        cpu_seconds=result.cpu_seconds,
        queue_seconds=result.queue_seconds,
        max_rss_mb=result.max_rss_mb,
        tier=result.tier,
    )


def _answer(result: RunResult, *, wished: bool) -> RunCodeResponse:
    """The answer; with our addition only for those who know of it."""
    command = _command(result)
    failed_here = command.status == "Error"
    good = command.status == "Finished" and command.return_code == 0 and result.status is RunStatus.OK
    return RunCodeResponse(
        status="SandboxError" if failed_here else "Success" if good else "Failed",
        message=result.stderr if failed_here else "",
        run_result=command,
        executor_pod_name=_POD,
        files=dict(result.files),
        retool=_ending(result) if wished else None,
    )


def _notebook_answer(notebook: Notebook, seconds: float) -> RunJupyterResponse:
    ended = not notebook.fault and not notebook.timed_out
    driver = CommandResult(
        status="Error" if notebook.fault else "TimeLimitExceeded" if notebook.timed_out else "Finished",
        execution_time=seconds,
        return_code=0 if ended else None,
        stdout="",
        stderr=notebook.message,
        truncated=notebook.truncated,
    )
    return RunJupyterResponse(
        status="SandboxError" if notebook.fault else "Failed" if notebook.timed_out else "Success",
        message=notebook.message,
        driver=driver,
        cells=list(notebook.cells),
        executor_pod_name=_POD,
        files=dict(notebook.files),
    )


@runtime_checkable
class _Measured(Protocol):
    def metrics(self) -> object: ...


class Service:
    """The endpoints over one sandbox, which the caller closes."""

    def __init__(self, sandbox: Sandbox, bounds: Bounds) -> None:
        self._sandbox = sandbox
        self._bounds = bounds
        self._notebooks = threading.BoundedSemaphore(bounds.max_notebooks)

    def run_code(self, body: bytes, *, key: str, cancel: Cancel) -> Reply:
        """``POST /run_code``: ``body`` is JSON, ``key`` whose request it is, ``cancel`` ends it."""
        try:
            request = _parse(RunCodeRequest, body)
            result = self._run(request, key, cancel)
        except _Mistake as mistake:
            return _reply_mistake(mistake)
        return _reply(_answer(result, wished=request.retool is not None), busy=result.fault == "busy")

    def _run(self, request: RunCodeRequest, key: str, cancel: Cancel) -> RunResult:
        wish = request.retool or Wish()
        limits = self._bounds.limits(
            "run_timeout", request.run_timeout, memory_mb=request.memory_limit_mb, wish=request.retool
        )
        try:
            return self._sandbox.run(
                request.code,
                mode=wish.mode,
                limits=limits,
                stdin=request.stdin or "",
                files={name: data for name, data in request.files.items() if data is not None},
                fetch=request.fetch_files,
                seed=wish.seed,
                cancel=cancel,
                key=key,
            )
        except UsageError as error:
            # The request was checked before; so it is the host that refuses something, and no mistake of the client.
            return RunResult(status=RunStatus.SANDBOX_ERROR, stderr=str(error), fault="setup")

    def run_jupyter(self, body: bytes, *, key: str, cancel: Cancel) -> Reply:
        """``POST /run_jupyter``, like :meth:`run_code`."""
        try:
            request = _parse(RunJupyterRequest, body)
            limits = self._bounds.limits("total_timeout", request.total_timeout, memory_mb=request.memory_limit_mb)
        except _Mistake as mistake:
            return _reply_mistake(mistake)
        begin = time.monotonic()
        notebook = self._play(request, limits, key, cancel)
        return _reply(_notebook_answer(notebook, time.monotonic() - begin), busy=notebook.fault == "busy")

    def _play(self, request: RunJupyterRequest, limits: Limits, key: str, cancel: Cancel) -> Notebook:
        if not self._notebooks.acquire(blocking=False):
            return Notebook(fault="busy", message="too many notebooks are open")
        try:
            return run_notebook(self._sandbox, request, limits, key=key, cancel=cancel)
        finally:
            self._notebooks.release()

    def metrics(self) -> object:
        """The sandbox's own numbers, for ``/metrics``; ``None`` when it keeps none."""
        return self._sandbox.metrics() if isinstance(self._sandbox, _Measured) else None


def _reply(response: BaseModel, *, busy: bool) -> Reply:
    absent = {"retool"} if getattr(response, "retool", None) is None else None
    body = response.model_dump_json(by_alias=True, exclude=absent).encode()
    return Reply(code=429, body=body, headers={"retry-after": "1"}) if busy else Reply(code=200, body=body)


def _reply_mistake(mistake: _Mistake) -> Reply:
    return Reply(code=422, body=json.dumps({"detail": mistake.detail}).encode())
