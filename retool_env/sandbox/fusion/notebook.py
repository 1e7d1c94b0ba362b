"""``/run_jupyter``: cells one after another in one session of the sandbox, reported as Jupyter would.

A cell that raises is followed by the next one, as in the real server. One that is stopped, by its limit, by memory or
by a signal, or that kills its interpreter, takes its changes with it: the next one continues from the state before,
and what ended it stands in its ``error``. When the total time is over, the cells that were finished keep their
outputs, the one that was running has an ``error``, and the rest are absent.

Left out: rich output (plots, HTML), top-level ``await``, magics, kernels other than Python.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from retool_env.errors import SandboxError, UsageError
from retool_env.sandbox.base import MIN_SECONDS, Cancel, Fault, Limits, RunResult, RunStatus, Sandbox, Session
from retool_env.sandbox.fusion.remote import cell
from retool_env.sandbox.fusion.wire import CellError, CellResult, RunJupyterRequest

__all__ = ["Notebook", "run_notebook"]

_SHARE: Final = 32
"""A displayed text gets this part of the output limit: with every character escaped and an error's two texts, the
report still fits into the half of the output that is kept from its end."""

_FETCH_SECONDS: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """What became of the cells. ``fault`` is set when the sandbox failed, ``message`` then says how.

    ``truncated``: a file that was asked for was too large.
    """

    cells: Sequence[CellResult] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    truncated: bool = False
    timed_out: bool = False
    fault: Fault = ""
    message: str = ""


class _Stopped(Exception):
    """The session cannot go on."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault: Fault = fault


def run_notebook(sandbox: Sandbox, request: RunJupyterRequest, limits: Limits, *, key: str, cancel: Cancel) -> Notebook:
    """Run the cells of ``request``. ``limits`` are those of the session; their wall time is the total one."""
    cells: list[CellResult] = []
    try:
        with sandbox.open_session(limits=limits, key=key) as session:
            runner = _Runner(session, request, limits, cancel)
            for number, code in enumerate(request.cells, 1):
                if runner.left <= 0:
                    break
                cells.append(runner.run(number, code))
            fetched = runner.fetch()
    except (SandboxError, UsageError) as error:
        return Notebook(cells=cells, fault="lost", message=str(error))
    except _Stopped as stop:
        return Notebook(cells=cells, fault=stop.fault, message=str(stop))
    return Notebook(
        cells=cells,
        files=fetched.files,
        truncated=fetched.truncated,
        timed_out=runner.timed_out or len(cells) < len(request.cells),
    )


class _Runner:
    """The cells' share of time, their programs and their reports."""

    def __init__(self, session: Session, request: RunJupyterRequest, limits: Limits, cancel: Cancel) -> None:
        self._session = session
        self._request = request
        self._limits = limits
        self._cancel = cancel
        self._files = {name: data for name, data in request.files.items() if data is not None}
        self._deadline = time.monotonic() + limits.wall_seconds
        self.timed_out = False

    @property
    def left(self) -> float:
        """Seconds until the total time is over."""
        return self._deadline - time.monotonic()

    def run(self, number: int, code: str) -> CellResult:
        """One cell."""
        mark = f"\x1e{secrets.token_hex(16)}\x1e"
        left = max(self.left, MIN_SECONDS)
        seconds = min(max(self._request.cell_timeout, MIN_SECONDS), left) if self._request.cell_timeout > 0 else left
        program = cell(code, number=number, mark=mark, limit=self._limits.output_bytes // _SHARE)
        result = self._run(program, seconds)
        # Cut short by the total time and not by its own.
        self.timed_out = result.status is RunStatus.TIMEOUT and seconds >= left
        return _report(result, mark, seconds)

    def fetch(self) -> RunResult:
        """The files that were asked for; apart from the last cell, which may have been stopped."""
        if not self._request.fetch_files:
            return RunResult(status=RunStatus.OK)
        return self._run("", _FETCH_SECONDS, fetch=self._request.fetch_files)

    def _run(self, program: str, seconds: float, fetch: Sequence[str] = ()) -> RunResult:
        limits = dataclasses.replace(self._limits, cpu_seconds=seconds, wall_seconds=seconds)
        files, self._files = self._files, {}
        result = self._session.run(program, mode="script", limits=limits, files=files, fetch=fetch, cancel=self._cancel)
        # A cell waits for its place like any program; that is not its fault.
        self._deadline += result.queue_seconds
        if result.status in (RunStatus.SANDBOX_ERROR, RunStatus.CANCELLED):
            raise _Stopped(result.fault or "closed", result.stderr or result.status.value)
        return result


def _report(result: RunResult, mark: str, seconds: float) -> CellResult:
    """The cell's own report, or, when it did not live to write one, what ended it."""
    before, found, rest = result.stdout.rpartition(mark)
    line, _, after = rest.partition("\n")
    if found and line.endswith("}"):
        return CellResult(stdout=before + after, stderr=result.stderr, **json.loads(line))
    error = [] if result.status is RunStatus.OK else [_ended(result, seconds)]
    return CellResult(stdout=result.stdout, stderr=result.stderr, error=error)


def _ended(result: RunResult, seconds: float) -> CellError:
    match result.status:
        case RunStatus.TIMEOUT:
            return CellError(ename="TimeLimitExceeded", evalue=f"the cell was stopped after {seconds:g} s")
        case RunStatus.MEMORY:
            return CellError(ename="MemoryError", evalue="the cell was stopped: out of memory")
        case RunStatus.OUTPUT_LIMIT:
            return CellError(ename="OutputLimitExceeded", evalue="the cell was stopped: too much output")
        case _:
            how = f"signal {result.signal}" if result.exit_code is None else f"exit code {result.exit_code}"
            return CellError(ename="DeadKernelError", evalue=f"the cell ended its interpreter with {how}")
