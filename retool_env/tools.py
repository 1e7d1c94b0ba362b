"""What the policy may call, and the code interpreter.

A :class:`ToolCall` is what the dialect read out of a turn; a :class:`ToolResult` is what goes back. The text of a
result says in words how the call ended, because the model sees nothing else: a program that timed out, one that ran
out of memory and a sandbox that is down all read differently. Typed Python functions as tools come with the
environment issue; this module has the one tool that ReTool is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retool_env.outcome import ToolStatus
from retool_env.sandbox.base import Limits, Mode, RunResult, RunStatus, Sandbox

__all__ = ["CodeInterpreter", "ToolCall", "ToolResult", "Traceback"]

Traceback = Literal["full", "short"]

NO_OUTPUT = "(no output)"
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call as the policy wrote it.

    Attributes:
        name: the tool's name.
        code: the program, for the code interpreter.
        problem: what was wrong with the way it was written; ``""`` for a well-formed call. Such a call is answered
            with this text and never reaches a tool.
    """

    name: str = "code_interpreter"
    code: str = ""
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a call gave back. ``text`` is what the model reads; the seconds are time fields."""

    call: ToolCall
    status: ToolStatus
    text: str
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


_STATUS = {
    RunStatus.OK: ToolStatus.OK,
    RunStatus.ERROR: ToolStatus.ERROR,
    RunStatus.TIMEOUT: ToolStatus.TIMEOUT,
    RunStatus.MEMORY: ToolStatus.MEMORY,
    RunStatus.OUTPUT_LIMIT: ToolStatus.OUTPUT_LIMIT,
    RunStatus.KILLED: ToolStatus.KILLED,
    RunStatus.CANCELLED: ToolStatus.OUTAGE,
    RunStatus.SANDBOX_ERROR: ToolStatus.OUTAGE,
}


@dataclass(frozen=True, kw_only=True)
class CodeInterpreter:
    """Runs each call in a fresh interpreter of ``sandbox``.

    Attributes:
        mode: ``notebook`` echoes the value of a last expression, ``script`` shows only what is printed.
        traceback: ``full`` shows the model's own frames, ``short`` only the line that names the exception.
    """

    sandbox: Sandbox
    limits: Limits = DEFAULT_LIMITS
    mode: Mode = "notebook"
    traceback: Traceback = "full"

    def __call__(self, call: ToolCall, *, seed: int) -> ToolResult:
        if call.problem:
            return ToolResult(call=call, status=ToolStatus.MALFORMED, text=call.problem)
        run = self.sandbox.run(call.code, mode=self.mode, limits=self.limits, seed=seed)
        return ToolResult(
            call=call,
            status=_STATUS[run.status],
            text=self._text(run),
            cpu_seconds=run.cpu_seconds,
            wall_seconds=run.wall_seconds,
        )

    def _text(self, run: RunResult) -> str:
        stderr = run.stderr.strip()
        if self.traceback == "short" and run.status is RunStatus.ERROR:
            stderr = stderr.rsplit("\n", 1)[-1]
        seen = "\n".join(part for part in (run.stdout.strip("\n"), stderr) if part)
        note = self._note(run)
        return "\n".join(part for part in (seen, note) if part) or NO_OUTPUT

    def _note(self, run: RunResult) -> str:
        """What the operating system knows and the program's own output does not say."""
        match run.status:
            case RunStatus.TIMEOUT:
                return f"[timed out after {self.limits.cpu_seconds:g} s]"
            case RunStatus.MEMORY:
                return f"[out of memory: the limit is {self.limits.memory_mb} MiB]"
            case RunStatus.OUTPUT_LIMIT:
                return "[stopped: too much output]"
            case RunStatus.KILLED:
                return "[the program was killed]"
            case RunStatus.SANDBOX_ERROR | RunStatus.CANCELLED:
                return "[the interpreter is not available]"
            case _:
                return ""
