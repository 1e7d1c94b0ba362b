"""A person at a terminal as an agent: reads what is new, writes a turn, ends it with a line ``.``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from agents.base import Generation, Request, check_request
from agents.writing import write_turn
from retool_env.errors import EngineError
from retool_env.tokenizer import Tokenizer

__all__ = ["HumanAgent"]

END = "."


class HumanAgent:
    """Asks whoever sits in front of ``source`` and ``target``; one request at a time, others wait.

    A turn has any number of lines and ends with a line ``.`` or the end of the input. A line of the text itself that is
    only a full stop cannot be written.

    Args:
        source: where turns are read; standard input by default.
        target: where the text is shown; standard output by default.
    """

    def __init__(self, tokenizer: Tokenizer, *, source: TextIO | None = None, target: TextIO | None = None) -> None:
        self._tokenizer = tokenizer
        self._source, self._target = source or sys.stdin, target or sys.stdout
        self._lock = threading.Lock()
        self._session, self._seen = -1, 0

    def act(self, request: Request) -> Generation:
        """Show what is new and read a turn.

        Raises:
            EngineError: the input ended before the turn began.
        """
        check_request(request, self._tokenizer.vocab_size)
        with self._lock:
            if request.cancel is not None and request.cancel.cancelled:
                return Generation.aborted()
            self._show(request)
            lines = list(self._read())
            generation = write_turn("\n".join(lines), request, self._tokenizer)
            self._session, self._seen = request.session, len(request.token_ids) + len(generation.token_ids)
            return generation

    def _show(self, request: Request) -> None:
        seen = self._seen if self._session == request.session else 0
        new = self._tokenizer.decode(request.token_ids[seen:])
        hint = f"[turn {request.turn + 1}, at most {request.budget} tokens; end with a line '{END}']"
        print(f"{new}\n{hint}", file=self._target, flush=True)

    def _read(self) -> Iterator[str]:
        line = self._source.readline()
        if not line:
            raise EngineError("the input ended; there is nobody who could answer")
        while line and line.rstrip("\r\n") != END:
            yield line.rstrip("\r\n")
            line = self._source.readline()
