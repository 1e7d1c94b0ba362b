r"""Agents that write instead of sampling: a script for tests and documents, and an oracle that checks the chain.

The oracle solves a problem the way a perfect policy would: it writes a program, reads what the interpreter printed
and answers with the last line of that. It never looks at the gold, so whatever it gets wrong was wrong in the
program, the sandbox, the parser or the verifier. For GSM8K the program is the data set's own calculator annotations.

It works in any dialect, because the dialect writes its calls and shows what a result looks like.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from agents.base import Generation, Request, check_request
from agents.writing import write_turn
from retool_env.dialects import Dialect, make_dialect
from retool_env.errors import UsageError
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.sources.gsm8k import calculator_annotations
from retool_env.tokenizer import Tokenizer
from retool_env.tools import ToolCall, ToolResult

__all__ = ["OracleAgent", "ScriptedAgent", "program_for"]

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
KEY_LENGTH = 48
MARK = "retool-stand-in"


class ScriptedAgent:
    """Writes what a function says.

    Args:
        write: from the context as text and the number of the turn to the text of the turn. A turn without a stop
            string gets the end-of-turn token.
    """

    def __init__(self, write: Callable[[str, int], str], tokenizer: Tokenizer) -> None:
        self._write = write
        self._tokenizer = tokenizer

    def act(self, request: Request) -> Generation:
        check_request(request, self._tokenizer.vocab_size)
        if request.cancel is not None and request.cancel.cancelled:
            return Generation.aborted()
        text = self._write(self._tokenizer.decode(request.token_ids), request.turn)
        return write_turn(text, request, self._tokenizer)


class OracleAgent(ScriptedAgent):
    """Runs the program that solves each of ``problems`` and answers with the last line it printed.

    Args:
        dialect: of the environment that it acts in; ``None`` for the tags of the paper.
    """

    def __init__(self, problems: Iterable[Problem], tokenizer: Tokenizer, dialect: Dialect | None = None) -> None:
        super().__init__(self._turn, tokenizer)
        self._dialect = dialect or make_dialect("retool")
        self._by_tail: dict[str, list[Problem]] = defaultdict(list)
        for problem in problems:
            self._by_tail[problem.question.strip()[-KEY_LENGTH:]].append(problem)

    def _turn(self, context: str, turn: int) -> str:
        program = program_for(self._recognise(context))
        if not program:
            return "I cannot write a program for this."
        call = ToolCall(arguments={"code": program})
        written = self._dialect.write("", [call])
        if turn == 0:
            return written
        said = self._output(context.rpartition(written)[2], call, written).strip()
        return f"\\boxed{{{said.rpartition(chr(10))[2]}}}"

    def _output(self, behind: str, call: ToolCall, written: str) -> str:
        """What the tool said, out of the text behind the call: the dialect shows what stands around a result."""
        stand_in = ToolResult(call=call, status=ToolStatus.OK, text=MARK)
        stopped = self._dialect.parse(written).stopped
        shown = self._dialect.render([stand_in], stopped=stopped, tokenizer=self._tokenizer)
        before, _, after = shown.partition(MARK)
        end_of_turn = "" if stopped else self._tokenizer.decode([self._tokenizer.eos_id])
        return behind.removeprefix(end_of_turn).removeprefix(before).removesuffix(after)

    def _recognise(self, context: str) -> Problem:
        """The problem with the longest question that the context holds."""
        lengths = {len(tail) for tail in self._by_tail}
        pieces = {context[k : k + length] for length in lengths for k in range(len(context) - length + 1)}
        tails = pieces & self._by_tail.keys()
        asked = [p for tail in tails for p in self._by_tail[tail] if p.question.strip() in context]
        if not asked:
            raise UsageError(f"the oracle does not know the question of this prompt: {context[-80:]!r}")
        return max(asked, key=lambda problem: len(problem.question))


def program_for(problem: Problem) -> str:
    """A program that prints the answer last; ``""`` when none is known.

    >>> program_for(Problem(id="p", prompt="Half of 9?", answer="?", metadata={"solution": "It is <<9*50%=4.5>>4.5."}))
    'print(9*(50/100))'
    """
    if expression := problem.metadata.get("expression"):
        return f"{problem.metadata.get('imports', '')}print({expression})"
    return "\n".join(f"print({_as_python(expression)})" for expression in calculator_annotations(problem))


def _as_python(expression: str) -> str:
    """A calculator annotation as Python: ``20%`` is a fraction, ``007`` a number, ``$`` and ``,`` are noise."""
    plain = expression.replace(",", "").replace("$", "").replace("x", "*")
    return _LEADING_ZEROS.sub("", _PERCENT.sub(r"(\1/100)", plain))
