"""Programs whose text is the attack: what parsers, compilers and decoders choke on."""

from __future__ import annotations

from functools import partial
from typing import Final

from retool_env.sandbox import RunStatus
from tests.hostile.model import ENDS, FAILS, NOT_OK, OK, SURVIVES, Hostile

__all__ = ["PROGRAMS"]

_one = partial(Hostile, category="interpreter", bare=True)

PROGRAMS: Final = (
    _one(
        name="nested-brackets",
        what="100 000 brackets",
        expect=NOT_OK,
        code="(" * 100_000 + "1" + ")" * 100_000,
    ),
    _one(
        name="nested-signs",
        what="a tree deeper than the compiler's stack",
        expect=SURVIVES,
        code="x = " + "-" * 300_000 + "1",
    ),
    _one(
        name="nested-calls-notebook",
        what="a deep tree that is also an expression to be echoed",
        expect=SURVIVES,
        mode="notebook",
        code="0" + "+0" * 200_000,
    ),
    _one(
        name="nested-blocks",
        what="more indentation than there are columns",
        expect=FAILS,
        code="".join(" " * i + "if 1:\n" for i in range(200)) + " " * 200 + "pass\n",
    ),
    _one(
        name="nested-f-strings",
        what="strings inside of strings inside of strings",
        expect=SURVIVES,
        code="x = " + "f'{" * 3000 + "1" + "}'" * 3000,
    ),
    _one(
        name="long-literal",
        what="a literal with more digits than integers may have",
        expect=FAILS,
        code="print(" + "9" * 100_000 + ")",
    ),
    _one(
        name="long-conversion",
        what="text of an integer beyond the limit of digits, and with the limit lifted",
        expect=FAILS,
        code="import sys\nprint(len(str(10 ** 4200)))\nstr(10 ** 5000)\n",
        shows="4201",
    ),
    _one(
        name="many-lines",
        what="a program of 30 000 lines",
        expect=OK,
        code="x = 1\n" * 30_000,
    ),
    _one(name="one-long-line", what="a line of 200 000 characters", expect=OK, code="x = 1;" * 30_000 + "x = 2"),
    _one(name="zero-bytes", what="NUL in the text", expect=FAILS, code="print(1)\0\nprint(2)"),
    _one(
        name="lone-surrogates",
        what="text that no encoding can carry",
        expect=ENDS,
        code="print('\ud800')\n",
    ),
    _one(
        name="false-encoding",
        what="a cookie for an encoding that does not exist, one that runs code, one that is another",
        expect=ENDS,
        code="# -*- coding: utf-7 -*-\nprint('+AGE-')\n",
    ),
    _one(
        name="odd-line-ends",
        what="form feeds, byte order marks, lone carriage returns and no line end",
        expect=OK,
        code="\ufeffx = 1\r\x0cy = 2\r\nif x: print(x + y)",
        shows="3",
    ),
    _one(
        name="future-leak",
        what="a future import and a name that must not leak into the harness's compiler",
        expect=OK,
        code="from __future__ import annotations\nx: undefined = 1\nprint(__name__, __annotations__)",
        shows="__main__ {'x': 'undefined'}",
    ),
    _one(
        name="constant-folding",
        what="constants that the compiler would compute",
        expect=FAILS | {RunStatus.MEMORY, RunStatus.TIMEOUT},
        code="x = 'a' * 10 ** 12\n",
    ),
    _one(
        name="warnings-as-flood",
        what="thousands of warnings from the compiler itself",
        expect=SURVIVES,
        code="\n".join(f"x{i} = 1 is 1" for i in range(20_000)),
    ),
    _one(name="nothing", what="an empty program", expect=OK, code=""),
)
