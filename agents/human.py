"""A person at a terminal as an agent: reads what is new, writes a turn, ends it with a line ``.``.

A turn is written as the policy would write it, in the words of the dialect; or its first line is a command that writes
it: ``:code`` a program, ``:answer 42`` the answer. Others show things and take no turn.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final, Protocol, TextIO

from agents.base import Generation, Request, check_request
from agents.console import standard_input
from agents.writing import write_turn
from retool_env.dialects import Dialect, make_dialect
from retool_env.errors import EngineError
from retool_env.problems import Message
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolCall
from retool_env.tools.spec import describe_tools

__all__ = ["HELP", "HumanAgent", "Lines"]

END: Final = "."
HELP: Final = """\
A turn has any number of lines and ends with a line that is only a full stop. Instead of text its first line may be
  :code             a program, in the lines that follow (or in this one, behind the word)
  :answer 42        the final answer
  :context          show all that the policy would read, and go on
  :tools            show what can be called
  :help             show this"""


class Lines(Protocol):
    """Where turns are read: any text file."""

    def readline(self) -> str: ...


class HumanAgent:
    """Asks whoever sits in front of ``source`` and ``target``; one request at a time, others wait.

    Args:
        dialect: of the episode, for the commands; ``None`` for the tags of the paper.
        source: where turns are read; standard input by default.
        target: where the text is shown; standard output by default.
        quiet: do not show the prompt of an episode, which somebody else did.
    """

    reads_messages = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        dialect: Dialect | None = None,
        *,
        source: Lines | None = None,
        target: TextIO | None = None,
        quiet: bool = False,
    ) -> None:
        self._tokenizer, self._dialect = tokenizer, dialect or make_dialect("retool")
        self._source, self._target = source or standard_input(), target or sys.stdout
        self._quiet = quiet
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
            generation = write_turn(self._turn(request), request, self._tokenizer)
            self._session, self._seen = request.session, len(request.token_ids) + len(generation.token_ids)
            return generation

    def _show(self, request: Request) -> None:
        if request.messages:
            self._say(_news(request.messages, prompt=not self._quiet))
        else:
            seen = self._seen if self._session == request.session else 0
            self._say(self._tokenizer.decode(request.token_ids[seen:]))
        self._say(f"[turn {request.turn + 1}, at most {request.budget} ids; end with a line '{END}', or :help]")

    def _turn(self, request: Request) -> str:
        """The text of a turn, after as many commands as it takes."""
        while True:
            line = self._source.readline()
            if not line:
                raise EngineError("the input ended; there is nobody who could answer")
            first = line.rstrip("\r\n")
            if not first.startswith(":"):
                return "\n".join(self._rest(first))
            word, _, behind = first.partition(" ")
            if word == ":code":
                program = behind if behind.strip() else "\n".join(self._rest())
                return self._dialect.write("", [ToolCall(arguments={"code": program})])
            if word == ":answer" and behind.strip():
                return f"\\boxed{{{behind.strip()}}}"
            self._say(self._reply(word, request))

    def _rest(self, first: str | None = None) -> Iterator[str]:
        """The lines of a turn up to its end."""
        line = first
        while line != END:
            if line is not None:
                yield line
            read = self._source.readline()
            if not read:
                return
            line = read.rstrip("\r\n")

    def _reply(self, word: str, request: Request) -> str:
        if word == ":context":
            return self._tokenizer.decode(request.token_ids)
        if word == ":tools":
            return describe_tools(request.tools) or "There is nothing to call."
        if word == ":answer":
            return "What is the answer? Write it behind the word, as :answer 42."
        return HELP if word == ":help" else f"{word} is no command.\n{HELP}"

    def _say(self, text: str) -> None:
        if text:
            print(text, file=self._target, flush=True)


def _news(messages: Sequence[Message], *, prompt: bool) -> str:
    """What came since the last turn; at the beginning the prompt."""
    turns = [number for number, message in enumerate(messages) if message.role == "assistant"]
    if not turns:
        return "\n".join(message.content for message in messages) if prompt else ""
    return "\n".join(message.content for message in messages[turns[-1] + 1 :])
