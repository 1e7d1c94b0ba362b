"""The process that does algebra for the verifier; run as a script, by path, never imported by the package.

Purpose: keep sympy and math-verify, with all their hangs and memory, outside of the trainer.
Contract: reads one JSON object ``{"id", "pred", "gold", "seconds", "plain"}`` per line from stdin (``plain`` asks for
math-verify as it comes, on a whole response) and answers with one ``{"id", "verdict"}`` per line on stdout, after a
first line ``{"ready": true}``; a worker that cannot import its libraries ends before that line. Verdicts: ``equal``,
``different``, ``unparsable``, ``too_big`` (out of memory), ``timeout``, ``crash``. The script imports the libraries and
warms them up once, then forks a child that does the work; a child past its time is killed with SIGKILL and its
successor is forked warm, in milliseconds. Ends when stdin does.
Left out: any decision that needs no algebra, and the checks of the input (:mod:`.guards`), which the caller makes.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import parse, verify
from math_verify.grader import should_treat_as_complex
from sympy.core.relational import Relational

_MEMORY_BYTES = 2 << 30
_RECURSION_LIMIT = 4000
_CALLS_PER_CHILD = 1000
_DIGITS = 50
_EXACT_ERROR = "1e-40"
_ROUNDED_ERROR = "1e-6"


def main() -> int:
    """Serve requests until stdin ends."""
    replies = _private_stdout()
    _limit_memory()
    sys.setrecursionlimit(_RECURSION_LIMIT)
    # The first question is slow, as the parser builds its tables.
    works = judge("x+1", "1+x") == "equal"
    # Frozen objects are not touched by the collector, so the children go on sharing their pages.
    gc.collect()
    gc.freeze()
    child = _Child()
    _send(replies, {"ready": works})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _send(replies, {"id": request["id"], "verdict": child.ask(line, request["seconds"])})
    child.kill()
    return 0


def _limit_memory() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = _MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, _MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _private_stdout() -> BinaryIO:
    """The stream of the replies; what libraries print goes nowhere."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return replies


def _send(replies: BinaryIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")


class _Child:
    """The forked process that computes; replaced when it hangs, dies or has served long enough."""

    def __init__(self) -> None:
        self._fork()

    def ask(self, line: bytes, seconds: float) -> str:
        if self._served >= _CALLS_PER_CHILD:
            self._replace()
        self._served += 1
        try:
            self._socket.sendall(line)
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            reply = self._socket.recv(64).decode() if poller.poll(1000 * seconds) else "timeout"
        except OSError:
            reply = ""
        if reply in ("", "timeout"):
            self._replace()
        return reply or "crash"

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._socket.close()

    def _replace(self) -> None:
        self.kill()
        self._fork()

    def _fork(self) -> None:
        self._served = 0
        self._socket, theirs = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            # With the parent's end open here, the parent's death would not end the stream.
            self._socket.close()
            _work(theirs)
            os._exit(0)
        theirs.close()


def _work(requests: socket.socket) -> None:
    for line in requests.makefile("rb"):
        request = json.loads(line)
        decide = judge_plainly if request["plain"] else judge
        requests.sendall(_judged(decide, request["pred"], request["gold"]).encode())


def _judged(decide: Callable[[str, str], str], pred: str, gold: str) -> str:
    try:
        return decide(pred, gold)
    except MemoryError:
        return "too_big"
    except Exception:  # noqa: BLE001 - the libraries raise anything at all on malformed input
        return "unparsable"


def judge(pred: str, gold: str) -> str:
    """``equal``, ``different`` or ``unparsable``."""
    right, left = _parsed_gold(gold), _parsed(pred)
    if right is None or left is None:
        return "unparsable"
    if isinstance(right, Relational) or isinstance(left, Relational):
        return "equal" if _same_relation(left, right) else "different"
    if isinstance(right, sympy.Symbol) and isinstance(left, sympy.Symbol):
        return "equal" if right == left else "different"
    options: dict[str, Any] = {"timeout_seconds": None, "allow_set_relation_comp": True}
    same = verify(right, left, **options) or verify(left, right, **options)
    return "equal" if same and _confirmed(left, right, rounded="." in pred + gold) else "different"


def judge_plainly(response: str, gold: str) -> str:
    """What math-verify says with its defaults, given a whole response: the peer that ours is compared with."""
    found = parse(response, parsing_timeout=None)
    right = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    if not found or not right:
        return "unparsable"
    return "equal" if verify(right, found, timeout_seconds=None) else "different"


@functools.lru_cache(maxsize=2048)
def _parsed_gold(text: str) -> Any:
    """The gold is the same for every sample of a group."""
    return _parsed(text)


def _parsed(text: str) -> Any:
    """The sympy object of a LaTeX text, with ``i`` as the imaginary unit; None when it has no meaning."""
    # The library's own unit stripping turns "2i" and "m/2" into 2 and 1/2; units are gone already.
    steps = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    # math-verify's own way here has no option for the case of symbols: to it "r" and "R" are one.
    found = latex2sympy(
        text,
        is_real=not should_treat_as_complex(text),
        normalization_config=steps,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
    imaginary = [symbol for symbol in getattr(found, "free_symbols", ()) if symbol.name == "i"]
    return found.subs(dict.fromkeys(imaginary, sympy.I)) if imaginary else found


def _same_relation(left: Any, right: Any) -> bool:
    """Two equations or inequalities say the same: their sides differ by the same up to a constant factor."""
    flips = (sympy.Gt, sympy.Ge)
    signs, differences = [], []
    for relation in (left, right):
        if not isinstance(relation, Relational):
            return False
        flipped = isinstance(relation, flips)
        signs.append(relation.reversed.func if flipped else relation.func)
        differences.append(relation.rhs - relation.lhs if flipped else relation.lhs - relation.rhs)
    if signs[0] is not signs[1] or not all(difference.free_symbols for difference in differences):
        return False
    factor = sympy.simplify(differences[0] / differences[1])
    if not factor.is_number or factor.is_zero is not False or not factor.is_finite:
        return False
    return bool(factor.is_positive) if signs[0] in (sympy.Lt, sympy.Le) else True


def _confirmed(left: Any, right: Any, *, rounded: bool) -> bool:
    """Check an equality of numbers again, relative to their size: math-verify rounds, so it calls 1e-7 and 0 equal."""
    if not all(isinstance(value, sympy.Expr) and not value.free_symbols for value in (left, right)):
        return True
    values = [value.doit().evalf(_DIGITS) for value in (left, right)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    whole = any(value.doit().is_Integer for value in (left, right))
    limit = sympy.Float(_ROUNDED_ERROR if rounded and not whole else _EXACT_ERROR, _DIGITS)
    return bool(abs(values[0] - values[1]) <= limit * max(abs(value) for value in values))


if __name__ == "__main__":
    sys.exit(main())
