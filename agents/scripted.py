"""Agents that write instead of sampling: a script for tests and documents, and an oracle that checks the chain.

The oracle solves a problem the way a perfect policy would: it writes a program, reads what the interpreter printed
and answers with the last line of that. It never looks at the gold, so whatever it gets wrong was wrong in the
program, the sandbox, the parser or the verifier. For GSM8K the program is the data set's own calculator annotations.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from agents.base import Generation, Request
from retool_env.errors import UsageError
from retool_env.problems import Problem
from retool_env.sources.gsm8k import calculator_annotations
from retool_env.tokenizer import Tokenizer

__all__ = ["OracleAgent", "ScriptedAgent", "program_for"]

_OUTPUT = re.compile(r"<interpreter>\n(.*?)\n</interpreter>", re.DOTALL)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
KEY_LENGTH = 48


class ScriptedAgent:
    """Writes what a function says.

    Args:
        write: from the context as text and the number of the turn to the text of the turn. A turn that does not end
            in a stop string gets the end-of-turn token.
    """

    def __init__(self, write: Callable[[str, int], str], tokenizer: Tokenizer) -> None:
        self._write = write
        self._tokenizer = tokenizer

    def act(self, request: Request) -> Generation:
        text = self._write(self._tokenizer.decode(request.token_ids), request.turn)
        ids = self._tokenizer.encode(text)
        if not any(text.endswith(stop) for stop in request.stop):
            ids.append(self._tokenizer.eos_id)
        return Generation.written(ids[: request.budget])


class OracleAgent(ScriptedAgent):
    """Runs the program that solves each of ``problems`` and answers with the last line it printed."""

    def __init__(self, problems: Iterable[Problem], tokenizer: Tokenizer) -> None:
        super().__init__(self._turn, tokenizer)
        self._by_tail: dict[str, list[Problem]] = defaultdict(list)
        for problem in problems:
            self._by_tail[problem.question.strip()[-KEY_LENGTH:]].append(problem)

    def _turn(self, context: str, turn: int) -> str:
        outputs = _OUTPUT.findall(context)
        if turn and outputs:
            return f"<answer>\\boxed{{{outputs[-1].strip().rsplit(chr(10), 1)[-1]}}}</answer>"
        program = program_for(self._recognise(context))
        return f"<code>\n```python\n{program}\n```\n</code>" if program else "I cannot write a program for this."

    def _recognise(self, context: str) -> Problem:
        """The problem whose question the prompt ends in, or holds (a chat template writes something behind it)."""
        text = context.strip()
        candidates = self._by_tail.get(text[-KEY_LENGTH:]) or [p for row in self._by_tail.values() for p in row]
        matches = [problem for problem in candidates if problem.question.strip() in text]
        if not matches:
            raise UsageError(f"the oracle does not know the question of this prompt: {text[-80:]!r}")
        return max(matches, key=lambda problem: len(problem.question))


def program_for(problem: Problem) -> str:
    """A program that prints the answer last; ``""`` when none is known."""
    if expression := problem.metadata.get("expression"):
        return f"{problem.metadata.get('imports', '')}print({expression})"
    return "\n".join(f"print({_as_python(expression)})" for expression in calculator_annotations(problem))


def _as_python(expression: str) -> str:
    """A calculator annotation as Python: ``20%`` is a fraction, ``007`` a number, ``$`` and ``,`` are noise."""
    plain = expression.replace(",", "").replace("$", "").replace("x", "*")
    return _LEADING_ZEROS.sub("", _PERCENT.sub(r"(\1/100)", plain))
