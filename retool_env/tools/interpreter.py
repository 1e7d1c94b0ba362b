"""``code_interpreter``: the policy's programs, run by a sandbox.

Stateless, every call has a fresh interpreter and calls of one turn run at the same time. With ``stateful`` all calls of
an episode share one: later programs see what earlier ones defined, and a program that is stopped or crashes takes only
its own changes with it. The value of a last expression is shown as a notebook shows it (the sandbox finds it in the
syntax tree; nothing is ever wrapped in ``print``), and a traceback shows the program's own frames. How a program ended
stands in words behind what it printed.

Left out: the length of an output in tokens, which is the episode's to limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import JsonValue

from retool_env.errors import UsageError, did_you_mean
from retool_env.outcome import ToolStatus
from retool_env.sandbox.base import Limits, Mode, RunResult, RunStatus, Sandbox, Session, check_files
from retool_env.tools.base import Arguments, ToolContext, ToolHandle, ToolReply
from retool_env.tools.signature import BadArgumentsError, Signature
from retool_env.tools.spec import ToolSpec

__all__ = ["NO_OUTPUT", "CodeInterpreter", "Traceback", "interpreter_spec"]

Traceback = Literal["full", "short"]

NO_OUTPUT = "(no output)"
DEFAULT_LIMITS = Limits()

_FENCED = re.compile(r"\s*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL | re.IGNORECASE)
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


def code_interpreter(code: str) -> str:
    """Run a Python program and return what it prints, and the value of its last expression.

    Args:
        code: The program, complete in itself.
    """
    raise AssertionError("only its signature is used")


def code_interpreter_stateful(code: str) -> str:
    """Run Python code and return what it prints, and the value of its last expression. Variables are kept.

    Args:
        code: The code; it may use what earlier calls defined.
    """
    raise AssertionError("only its signature is used")


@cache
def _signature(stateful: bool) -> Signature:
    return Signature(code_interpreter_stateful if stateful else code_interpreter, "code_interpreter")


def interpreter_spec(*, stateful: bool = False) -> ToolSpec:
    """What the model reads about the interpreter; it needs no sandbox to be known."""
    return _signature(stateful).spec


@dataclass(frozen=True, kw_only=True)
class CodeInterpreter:
    """Runs programs in ``sandbox``, which stays the caller's to close.

    A problem may put text files into the working directory: ``create_kwargs: {"files": {"data.csv": "1,2"}}``.

    Attributes:
        limits: of each program.
        mode: ``notebook`` echoes the value of a last expression, ``script`` shows only what is printed.
        traceback: ``full`` shows the model's own frames, ``short`` only the line that names the exception.
        stateful: one interpreter for all calls of an episode; needs a sandbox that keeps sessions.
    """

    sandbox: Sandbox
    limits: Limits = DEFAULT_LIMITS
    mode: Mode = "notebook"
    traceback: Traceback = "full"
    stateful: bool = False

    @property
    def spec(self) -> ToolSpec:
        return interpreter_spec(stateful=self.stateful)

    @property
    def pure(self) -> bool:
        return not self.stateful

    def check(self, kwargs: Mapping[str, JsonValue]) -> None:
        """Raises :class:`UsageError` for settings of a problem that cannot work."""
        _files(kwargs)

    def open(self, context: ToolContext) -> ToolHandle:
        files = _files(context.kwargs)
        if not self.stateful:
            return _Fresh(self, files, context.key)
        session = self.sandbox.open_session(limits=self.limits, seed=context.seed, key=context.key)
        return _Lasting(self, session, files)

    def reply(self, run: RunResult) -> ToolReply:
        """What the model reads of a run."""
        return ToolReply(
            status=_STATUS[run.status],
            text=self._text(run),
            cpu_seconds=run.cpu_seconds,
            wall_seconds=run.wall_seconds,
        )

    def _text(self, run: RunResult) -> str:
        if _STATUS[run.status] is ToolStatus.OUTAGE:
            return "[the interpreter is not available]"
        stderr = run.stderr.strip()
        if self.traceback == "short" and run.status is RunStatus.ERROR:
            stderr = stderr.rsplit("\n", 1)[-1]
        seen = "\n".join(part for part in (run.stdout.strip("\n"), stderr) if part)
        return "\n".join(part for part in (seen, self._note(run)) if part) or NO_OUTPUT

    def _note(self, run: RunResult) -> str:
        """What the operating system knows and the program's own output does not say."""
        undone = "; the variables are as they were before it" if self.stateful else ""
        match run.status:
            case RunStatus.TIMEOUT:
                return f"[timed out after {self._time(run)}{undone}]"
            case RunStatus.MEMORY:
                return f"[out of memory: the limit is {self.limits.memory_mb} MiB{undone}]"
            case RunStatus.OUTPUT_LIMIT:
                return f"[stopped: too much output{undone}]"
            case RunStatus.KILLED:
                return f"[the program was killed{undone}]"
            case RunStatus.ERROR if not run.stderr.strip():
                return f"[the program ended with exit code {run.exit_code}]"
            case _:
                return ""

    def _time(self, run: RunResult) -> str:
        """The limit that a program ran into. A result does not name it, so it is the one that was used up; on a busy
        machine the wall clock may be past its limit too, and where processor time is not measured, there is no other.
        """
        cpu, wall = self.limits.cpu_seconds, self.limits.wall_seconds
        if run.cpu_seconds / cpu >= min(1.0, run.wall_seconds / wall):
            return f"{cpu:g} s"
        return f"{wall:g} s on the wall clock"


@dataclass(frozen=True)
class _Fresh:
    """Every call in an interpreter of its own."""

    tool: CodeInterpreter
    files: Mapping[str, bytes]
    key: str

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        try:
            code = _program(self.tool, arguments)
        except BadArgumentsError as error:
            return ToolReply(status=ToolStatus.BAD_ARGUMENTS, text=str(error))
        tool = self.tool
        run = tool.sandbox.run(
            code, mode=tool.mode, limits=tool.limits, files=self.files or None, seed=seed, key=self.key
        )
        return tool.reply(run)

    def close(self) -> None:
        pass


class _Lasting:
    """All calls in one interpreter."""

    def __init__(self, tool: CodeInterpreter, session: Session, files: Mapping[str, bytes]) -> None:
        self._tool = tool
        self._session = session
        self._files = files

    def call(self, arguments: Arguments, *, seed: int) -> ToolReply:
        try:
            code = _program(self._tool, arguments)
        except BadArgumentsError as error:
            return ToolReply(status=ToolStatus.BAD_ARGUMENTS, text=str(error))
        files, self._files = self._files, {}
        run = self._session.run(code, mode=self._tool.mode, limits=self._tool.limits, files=files or None)
        return self._tool.reply(run)

    def close(self) -> None:
        self._session.close()


def _program(tool: CodeInterpreter, arguments: Arguments) -> str:
    """The program; a markdown fence around all of it is taken off, because Python knows none."""
    code = _signature(tool.stateful).read(arguments)["code"]
    assert isinstance(code, str), "the signature says so"
    if not code.strip():
        raise BadArgumentsError("Error: the program is empty; nothing was run.")
    fenced = _FENCED.match(code)
    return fenced[1] if fenced else code


def _files(kwargs: Mapping[str, JsonValue]) -> dict[str, bytes]:
    for name in kwargs:
        if name != "files":
            raise UsageError(f"code_interpreter has no setting {name!r}{did_you_mean(name, ['files'])}")
    files = kwargs.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(text, str) for text in files.values()):
        raise UsageError(f"code_interpreter: files={files!r}: expected a mapping from file name to text")
    try:
        check_files(files)
    except UsageError as error:
        raise UsageError(f"code_interpreter: files: {error}") from error
    return {name: str(text).encode() for name, text in files.items()}
