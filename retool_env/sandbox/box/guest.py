"""Be a plain Python interpreter for one program: its standard streams, its ``__main__``, its exit.

Runs in the forked child, standard library only. A program sees what it would see as a file of its own: its name is
``__main__``, an uncaught exception is printed without any frame of ours, threads are waited for, ``atexit`` runs,
globals are destroyed, buffers are flushed. Standard output is line-buffered, so a killed program leaves every complete
line it printed. Names that a program may overwrite (``os._exit``, ``print``, ...) are bound here beforehand.

The parser works on the program here and not in the caller, because hostile text can crash it. Left out: limits and
identity (``confine``), cells that share a state (``cells``, which uses what is here), and any judgement of how the
program ended (the zygote asks the kernel).
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import gc
import io
import linecache
import os
import random
import sys
import threading
import traceback
import types
from typing import Any, Final, NoReturn, TextIO

__all__ = [
    "FAULT",
    "MARK",
    "OUT_OF_MEMORY",
    "STARTED",
    "STATUS_FD",
    "flush",
    "live",
    "new_main",
    "open_streams",
    "perform",
    "seed_random",
    "set_environment",
    "show_source",
    "take_stage",
]

NAME: Final = "<code>"
MARK: Final = "RETOOL_SANDBOX"
"""Environment variable that names a zygote's directory: what is left of a dead zygote's family is found by it."""

STATUS_FD: Final = 3
STARTED: Final = b"+"
FAULT: Final = b"!"
OUT_OF_MEMORY: Final = b"M"

_BALLAST_BYTES = 4 << 20
_exit, _write, _print = os._exit, os.write, print
_join_threads = threading._shutdown  # type: ignore[attr-defined]
_count_threads = threading.active_count
_run_atexit = atexit._run_exitfuncs
_show_exception = traceback.print_exception
_default_hook = sys.__excepthook__


def _tell(fd: int, message: bytes) -> None:
    with contextlib.suppress(OSError):
        _write(fd, message)


def _stream(fd: int, mode: str, *, errors: str, buffering: int = -1) -> io.TextIOWrapper:
    # closefd=False: a program that closes sys.stdout must not free the number for its next open().
    stream = open(fd, mode, encoding="utf-8", errors=errors, buffering=buffering, closefd=False)  # noqa: SIM115
    assert isinstance(stream, io.TextIOWrapper)
    return stream


def open_streams() -> None:
    """Fresh standard streams in place of those that the interpreter opened. They look at what is behind 0, 1 and 2.

    The zygote does it for its children, with a pipe behind 1 and 2 as a program has it.
    """
    sys.stdin = sys.__stdin__ = _stream(0, "r", errors="surrogateescape")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", errors="surrogateescape", buffering=1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", errors="backslashreplace", buffering=1)  # type: ignore[misc]


def set_environment(home: str) -> None:
    """The environment of a program whose own directory is ``home``, in place of what the zygote was started with."""
    os.environ.pop("LD_LIBRARY_PATH", None)
    os.environ.pop(MARK, None)
    os.environ["HOME"] = f"{home}/work"
    os.environ["TMPDIR"] = f"{home}/tmp"


def take_stage(home: str) -> None:
    """Everything else that a program finds of Python, and its environment unless that is set already."""
    if os.environ.get("TMPDIR") != f"{home}/tmp":
        set_environment(home)
    sys.argv = [NAME]
    sys.path.insert(0, f"{home}/work")
    if "tempfile" in sys.modules:
        sys.modules["tempfile"].tempdir = None  # type: ignore[attr-defined]


def seed_random(seed: int) -> None:
    """``random`` reseeds itself after a fork, numpy would go on from the zygote's state."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def _compile(code: str, mode: str) -> tuple[types.CodeType, types.CodeType | None]:
    """The program, and in notebook mode its trailing expression apart. Line numbers stay as they are."""
    if mode != "notebook":
        return compile(code, NAME, "exec", dont_inherit=True), None
    tree = ast.parse(code, NAME)
    if not tree.body or not isinstance(tree.body[-1], ast.Expr):
        return compile(tree, NAME, "exec", dont_inherit=True), None
    last = ast.Expression(tree.body.pop().value)  # type: ignore[attr-defined]
    return compile(tree, NAME, "exec", dont_inherit=True), compile(last, NAME, "eval", dont_inherit=True)


def show_source(code: str) -> None:
    """Let tracebacks and ``inspect`` know the program's lines."""
    linecache.cache[NAME] = (len(code), None, code.splitlines(keepends=True), NAME)


def new_main(code: str) -> dict[str, Any]:
    """A fresh ``__main__`` whose source lines are known to tracebacks and to ``inspect``."""
    show_source(code)
    main = types.ModuleType("__main__")
    main.__file__ = NAME
    sys.modules["__main__"] = main
    vars(main)["__builtins__"] = sys.modules["builtins"]
    return vars(main)


def _report(error: BaseException) -> None:
    """Print an uncaught exception as the interpreter would, starting at the program's own frames."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    try:
        error.__traceback__ = frames
        hook = sys.excepthook
        (_show_exception if hook is _default_hook else hook)(type(error), error, frames)
    except BaseException:  # noqa: BLE001
        # The exception, the hook or the stream is hostile or memory is short; the verdict does not depend on it.
        _tell(2, type(error).__name__.encode("utf-8", "replace") + b"\n")


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    _print(stop.code, file=sys.stderr)
    return 1


def _execute(program: types.CodeType, last: types.CodeType | None, main: dict[str, Any]) -> None:
    exec(program, main)
    value = None if last is None else eval(last, main)
    if value is not None:
        _print(value if isinstance(value, str) else repr(value))


def perform(code: str, mode: str, main: dict[str, Any]) -> int:
    """Run the program in the name space ``main``; its exit code."""
    # Address space given back before an exhausted program's traceback is printed; never touched, so it costs nothing.
    ballast = bytes(_BALLAST_BYTES)
    try:
        program, last = _compile(code, mode)
    except BaseException as error:  # noqa: BLE001
        # Apart from the run, because the parser says MemoryError for a program that is merely nested too deeply.
        _report(error)
        return 1
    try:
        _execute(program, last, main)
    except SystemExit as stop:
        return _exit_code(stop)
    except MemoryError as error:
        del ballast
        _tell(STATUS_FD, OUT_OF_MEMORY)
        _report(error)
        return 1
    except BaseException as error:  # noqa: BLE001
        _report(error)
        return 1
    return 0


def _finish(main: dict[str, Any]) -> None:
    """What the interpreter does at its end, without its slow destruction of every module."""
    _join_threads()
    _run_atexit()
    if _count_threads() > 1:
        # The interpreter would freeze a daemon thread here; ours would run on and stumble over what is gone.
        return
    for name in list(main):
        if name != "__builtins__":
            main[name] = None
    gc.collect()


def flush(streams: tuple[TextIO, ...]) -> None:
    """Write out what the program left in its streams, and in ``streams``, which it may have replaced."""
    present: list[Any] = [getattr(sys, "stdout", None), getattr(sys, "stderr", None), *streams]
    for stream in present:
        # Closed, deleted or replaced by anything: the program may.
        with contextlib.suppress(BaseException):
            stream.flush()


def live(code: str, mode: str) -> NoReturn:
    """Run ``code`` and end this process. The caller has confined it and set the stage."""
    streams = (sys.stdout, sys.stderr)
    main = new_main(code)
    gc.enable()
    exit_code = 1
    _write(STATUS_FD, STARTED)
    try:
        exit_code = perform(code, mode, main)
        _finish(main)
    except BaseException as error:  # noqa: BLE001
        _report(error)
    flush(streams)
    _exit(exit_code)
