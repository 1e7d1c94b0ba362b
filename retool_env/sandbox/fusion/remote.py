"""Programs that behave in a plain interpreter as ours do in a notebook: written here, run over there.

:func:`wrapped` and :func:`cell` turn a program into another one: a single expression that carries this file's own text
and runs it in the remote interpreter. There it compiles the program with ``ast``, runs it in the real ``__main__``,
and shows the value of a last expression and uncaught exceptions with the program's own lines and frames only. The
program is never edited as text and never parsed on this side. Names of ours do not appear in its namespace.

Everything below runs on Python 3.8 or later with the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import random
import sys
import traceback
from typing import Any

__all__ = ["cell", "run_cell", "run_program", "wrapped"]

_FILE = "<retool>"


def wrapped(code: str, *, notebook: bool, seed: int) -> str:
    """``code`` as a program for a remote interpreter that seeds its random generators first."""
    return _carrier("run_program", f"{code!a}, globals(), {notebook}, {seed}, {'numpy' in code}")


def cell(code: str, *, number: int, mark: str, limit: int) -> str:
    """``code`` as a cell of a session. After its output it prints ``mark`` and a line of JSON: ``display``, ``error``.

    Args:
        number: of the cell, for its tracebacks.
        mark: a text that the output cannot contain by accident.
        limit: characters kept of each displayed text.
    """
    return _carrier("run_cell", f"{code!a}, globals(), {number}, {mark!a}, {limit}")


def _carrier(function: str, arguments: str) -> str:
    source = ascii("".join(linecache.getlines(__file__)))
    space = f"{{'__name__': {_FILE!r}, '__file__': {_FILE!r}}}"
    return f"(lambda s: (exec(compile({source}, {_FILE!r}, 'exec'), s), s[{function!r}]({arguments})))({space})\n"


def _perform(code: str, main: dict[str, Any], name: str, notebook: bool) -> Any:
    """Run ``code`` in ``main``; the value of its last expression in a notebook."""
    import ast

    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    # Not ast.parse, whose frame would show in the traceback of a syntax error.
    tree: Any = compile(code, name, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    last = None
    if notebook and tree.body and isinstance(tree.body[-1], ast.Expr):
        last = compile(ast.Expression(tree.body.pop().value), name, "eval", dont_inherit=True)
    exec(compile(tree, name, "exec", dont_inherit=True), main)
    return None if last is None else eval(last, main)


def _own_frames(error: BaseException) -> Any:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == _FILE:
        frames = frames.tb_next
    error.__traceback__ = frames
    return frames


def run_program(code: str, main: dict[str, Any], notebook: bool, seed: int, numpy: bool) -> None:
    """In the remote interpreter: the whole program, with exit code 1 after an uncaught exception."""
    random.seed(seed)
    if numpy:
        with contextlib.suppress(ImportError):
            import numpy as np

            np.random.seed(seed % 2**32)
    try:
        value = _perform(code, main, "<code>", notebook)
        if value is not None:
            print(value if isinstance(value, str) else repr(value))
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001
        # Printed here, because the interpreter would show the frames of this file too.
        frames = _own_frames(error)
        show = traceback.print_exception if sys.excepthook is sys.__excepthook__ else sys.excepthook
        show(type(error), error, frames)
        sys.exit(1)


def _text(make: Any, value: Any, limit: int) -> str:
    """``make(value)``, cut at ``limit``; what a hostile object does instead of answering is told, not raised."""
    try:
        text = str(make(value))
    except Exception as error:  # noqa: BLE001
        text = f"<{type(value).__name__} that raised {type(error).__name__}>"
    return text if len(text) <= limit else f"{text[:limit]}\n[... {len(text) - limit} characters cut ...]"


def _error(error: BaseException, limit: int) -> dict[str, Any]:
    frames = _own_frames(error)
    lines = traceback.format_exception(type(error), error, frames)
    lines = _text("".join, lines, limit).splitlines()
    return {"ename": type(error).__name__, "evalue": _text(str, error, limit), "traceback": lines}


def run_cell(code: str, main: dict[str, Any], number: int, mark: str, limit: int) -> None:
    """In the session's interpreter: one cell, with a report behind its output."""
    report: dict[str, Any] = {"display": [], "error": []}
    try:
        value = _perform(code, main, f"<cell {number}>", True)
        if value is not None:
            main["_"] = value
            report["display"].append({"text/plain": _text(repr, value, limit)})
    except BaseException as error:  # noqa: BLE001
        report["error"].append(_error(error, limit))
    _send(f"{mark}{json.dumps(report)}\n".encode())


def _send(line: bytes) -> None:
    """Past ``sys.stdout``, which the cell may have replaced, and behind what is still in its buffer."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        while line:
            line = line[os.write(1, line) :]
