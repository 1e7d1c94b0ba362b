"""Between our words and SandboxFusion's: what is asked of a server, and what its answer means.

A foreign server's answer is not taken at its word. Its reader stops at some hundred KiB and says nothing; a program
that writes on then hangs until its time is over; and one byte that is not UTF-8 replaces the whole text by a message.
Each of these sets ``truncated`` and is told where the text is missing.

Left out: sending (``courier``) and repeating (``client``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from retool_env.sandbox.base import Limits, Mode, RunResult, RunStatus
from retool_env.sandbox.capture import Capture
from retool_env.sandbox.fusion.remote import wrapped
from retool_env.sandbox.fusion.wire import CommandResult, RunCodeRequest, RunCodeResponse, Wish

__all__ = ["Order", "from_foreign", "from_own"]

_CUT_BYTES: Final = 219_264
"""SandboxFusion gives at most this much of a stream."""

_SAFE_BYTES: Final = 128 * 1024
"""It never cuts below; between the two it depends on timing."""

_BAD_TEXT: Final = "[DecodeError]"
_OUT_OF_MEMORY: Final = re.compile(r"[\w.]*MemoryError\b")


@dataclass(frozen=True, kw_only=True)
class Order:
    """The arguments of one run."""

    code: str
    mode: Mode
    limits: Limits
    stdin: str
    files: Mapping[str, bytes]
    fetch: tuple[str, ...]
    seed: int

    def body(self, *, own: bool) -> bytes:
        """The request, for a server of ours or a foreign one.

        A foreign server counts the address space of the whole interpreter as memory, where numpy alone can exceed our
        default, so only a limit that somebody chose is passed on to it. It gets a script exactly as it is unless it
        needs a seed, which is when it mentions ``random``; JSON cannot carry a program with half a surrogate pair, so
        such a one always travels inside of the wrapper.
        """
        notebook = self.mode == "notebook"
        wrap = not _is_text(self.code) or (not own and (notebook or "random" in self.code))
        request = RunCodeRequest(
            code=wrapped(self.code, notebook=notebook, seed=self.seed) if wrap else self.code,
            language="python",
            stdin=self.stdin.encode("utf-8", "replace").decode(),
            files=dict(self.files),
            fetch_files=list(self.fetch),
            run_timeout=self.limits.wall_seconds,
            memory_limit_MB=self.limits.memory_mb if own or self.limits.memory_mb != Limits().memory_mb else -1,
            retool=self._wish("script" if wrap else self.mode) if own else None,
        )
        return request.model_dump_json(by_alias=True, exclude_none=True).encode()

    def _wish(self, mode: Mode) -> Wish:
        return Wish(
            mode=mode,
            seed=self.seed,
            cpu_seconds=self.limits.cpu_seconds,
            output_bytes=self.limits.output_bytes,
            stop_bytes=self.limits.stop_bytes,
            subprocesses=self.limits.subprocesses,
        )


def _is_text(code: str) -> bool:
    try:
        code.encode()
    except UnicodeEncodeError:
        return False
    return True


def from_own(response: RunCodeResponse) -> RunResult | None:
    """The result that our server wrote down; ``None`` when it is incomplete."""
    command, ending = response.run_result, response.retool
    if command is None or ending is None:
        return None
    stopped_by_signal = command.return_code is None or command.return_code < 0
    return RunResult(
        status=ending.status,
        stdout=command.stdout or "",
        stderr=command.stderr or "",
        exit_code=None if stopped_by_signal else command.return_code,
        signal=ending.signal,
        cpu_seconds=ending.cpu_seconds,
        wall_seconds=command.execution_time or 0.0,
        queue_seconds=ending.queue_seconds,
        max_rss_mb=ending.max_rss_mb,
        truncated=command.truncated,
        files=response.files,
        fault=ending.fault,
        tier=ending.tier,
    )


def from_foreign(response: RunCodeResponse, limits: Limits) -> RunResult | None:
    """The result that a SandboxFusion server's answer means; ``None`` when it is incomplete."""
    command = response.run_result
    if command is None or (command.status == "Finished" and command.return_code is None):
        return None
    timeout = command.status == "TimeLimitExceeded"
    stdout, stdout_cut = _checked(command.stdout or "", limits.output_bytes, timeout)
    stderr, stderr_cut = _checked(command.stderr or "", limits.output_bytes, timeout)
    code = None if timeout else command.return_code
    return RunResult(
        status=_status(command),
        stdout=stdout,
        stderr=stderr,
        exit_code=None if code is None or code < 0 else code,
        signal=-code if code is not None and code < 0 else None,
        wall_seconds=command.execution_time or 0.0,
        truncated=stdout_cut or stderr_cut or command.truncated,
        files=response.files,
        tier="fusion",
    )


def _status(command: CommandResult) -> RunStatus:
    if command.status == "TimeLimitExceeded":
        return RunStatus.TIMEOUT
    if not command.return_code:
        return RunStatus.OK
    if command.return_code < 0:
        return RunStatus.KILLED
    last = (command.stderr or "").rstrip().rpartition("\n")[2]
    return RunStatus.MEMORY if _OUT_OF_MEMORY.match(last) else RunStatus.ERROR


def _checked(text: str, limit: int, timeout: bool) -> tuple[str, bool]:
    """The text with a note for what is missing from it, cut to ``limit`` bytes; and whether anything is missing."""
    note = _suspicion(text, timeout)
    if note:
        text = f"{text}\n[... {note} ...]"
    data = text.encode("utf-8", "replace")
    capture = Capture(keep=limit, stop=len(data))
    capture.feed(data)
    return capture.text(), bool(note) or capture.cut > 0


def _suspicion(text: str, timeout: bool) -> str:
    if text.startswith(_BAD_TEXT):
        return "the server left out this output, because it was not UTF-8"
    size = len(text.encode("utf-8", "replace"))
    if size > _SAFE_BYTES and timeout:
        return "the server stops reading here: the program may have hung on its output and not have been too slow"
    # What was cut ends anywhere; what a program printed to its end nearly always ends with a line.
    if size >= _CUT_BYTES or (size > _SAFE_BYTES and not text.endswith("\n")):
        return "the server may have cut this output without saying so"
    return ""
