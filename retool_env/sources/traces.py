r"""Cold-start traces for the arithmetic problems, of *mixed quality* on purpose.

A cold start has to teach the format and leave something for reinforcement learning to find out. Four kinds:

- ``tool``: a right program, its output, the answer.
- ``no_print``: a program that computes but prints nothing, then a guess.
- ``repair``: a typo, the error message, a right program, the answer.
- ``mental``: an answer without a program. Right for the easy family; for the hard ones a plausible wrong number.

Phases follow each other: first *skills* (mostly right tool use, so that copying numbers and closing blocks is learnt),
then a *weak policy* (mostly confident guesses), which is what the model will sample from when RL starts. In the other
order, or mixed, the noise of the guesses drowns the copying. Calls are written as the dialect writes them.

The outputs are what the interpreter of this project gives for these programs; a test runs them for real and compares.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from retool_env.config import Config
from retool_env.dialects import Dialect, make_dialect
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.recorded import RecordedTurn, Recording
from retool_env.seeding import derive
from retool_env.sources.arithmetic import EASY_FAMILIES, ArithmeticSource
from retool_env.tools import NO_OUTPUT, ToolCall

__all__ = ["TracePhase", "arithmetic_traces"]

TYPO = "NameError: name 'prin' is not defined"


class TracePhase(Config):
    """A stretch of traces with one mixture; what the three shares leave is mental.

    Attributes:
        share: of all traces.
        tool_easy: share of right tool use in the easy family.
        tool_hard: the same in the hard ones.
        no_print: share of forgotten prints.
        repair: share of errors that are then repaired.
    """

    share: float = Field(gt=0, le=1)
    tool_easy: float = Field(ge=0, le=1)
    tool_hard: float = Field(ge=0, le=1)
    no_print: float = Field(default=0.1, ge=0, le=1)
    repair: float = Field(default=0.08, ge=0, le=1)


def arithmetic_traces(
    num: int,
    *,
    seed: int,
    phases: Sequence[TracePhase],
    families: dict[str, float] | None = None,
    dialect: Dialect | None = None,
) -> Iterator[Recording]:
    """``num`` traces of training problems, phase after phase; trace ``i`` depends on ``seed`` and ``i`` alone.

    Args:
        families: weights of the problem families; ``None`` for equal ones.
        dialect: in which the turns are written; ``None`` for the tags of the paper.

    >>> (trace,) = arithmetic_traces(1, seed=4, phases=[TracePhase(share=1, tool_easy=1, tool_hard=1)])
    >>> print(trace.problem.question, trace.turns[0].outputs, trace.turns[1].text)
    Compute 47^90 modulo 166. ('37',) <answer>\\boxed{37}</answer>
    """
    writer = _Writer(dialect or make_dialect("retool"))
    source = ArithmeticSource(split="train", seed=derive(seed, "traces"), families=families)
    total = sum(phase.share for phase in phases)
    ends = [round(num * sum(p.share for p in phases[: k + 1]) / total) for k in range(len(phases))]
    for index in range(num):
        phase = next(phase for phase, end in zip(phases, ends, strict=True) if index < end)
        yield _trace(writer, random.Random(derive(seed, "trace", index)), source.problem(index), phase)


def _trace(writer: _Writer, rng: random.Random, problem: Problem, phase: TracePhase) -> Recording:
    tool = phase.tool_easy if problem.family in EASY_FAMILIES else phase.tool_hard
    expression, draw = problem.metadata["expression"], rng.random()
    right, answer = f"print({expression})", writer.answer(problem.answer)
    if draw < tool:
        turns = [writer.call(_intro(rng), problem, right, problem.answer), answer]
    elif draw < tool + phase.no_print:
        silent = writer.call(_intro(rng), problem, f"x = {expression}", NO_OUTPUT)
        turns = [silent, writer.answer(_guess(rng, problem))]
    elif draw < tool + phase.no_print + phase.repair:
        typo = writer.call(_intro(rng), problem, f"prin({expression})", TYPO, ToolStatus.ERROR)
        turns = [typo, writer.call("Fix it. ", problem, right, problem.answer), answer]
    else:
        intro = rng.choice(["This is easy. ", "I can do it in my head. "])
        turns = [writer.answer(_guess(rng, problem), intro)]
    return Recording(problem=problem, turns=tuple(turns))


@dataclass(frozen=True)
class _Writer:
    """Turns in one dialect."""

    dialect: Dialect

    def call(
        self, intro: str, problem: Problem, statement: str, output: str, status: ToolStatus = ToolStatus.OK
    ) -> RecordedTurn:
        call = ToolCall(arguments={"code": problem.metadata["imports"] + statement})
        return RecordedTurn(text=self.dialect.write(intro, [call]), outputs=(output,), status=status)

    def answer(self, answer: str, intro: str = "") -> RecordedTurn:
        boxed = f"\\boxed{{{answer}}}"
        # The paper's format has tags around the box; the instructions of the other dialects ask for the box alone.
        return RecordedTurn(text=intro + (f"<answer>{boxed}</answer>" if self.dialect.name == "retool" else boxed))


def _intro(rng: random.Random) -> str:
    return rng.choice(["Let me run code. ", "I will use python. "])


def _guess(rng: random.Random, problem: Problem) -> str:
    """An answer without computing: right for the easy family, else a number as long as the right one."""
    if problem.family in EASY_FAMILIES:
        return problem.answer
    digits = len(problem.answer)
    return str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
