r"""Cold-start traces for the arithmetic problems, of *mixed quality* on purpose.

A cold start has to teach the format and leave something for reinforcement learning to find out. Four kinds:

- ``tool``: a right program, its output, the answer.
- ``no_print``: a program that computes but prints nothing, then a guess.
- ``repair``: a typo, the error message, a right program, the answer.
- ``mental``: an answer without a program. Right for the easy family; for the hard ones a plausible wrong number.

Phases follow each other: first *skills* (mostly right tool use, so that copying numbers and closing blocks is learnt),
then a *weak policy* (mostly confident guesses), which is what the model will sample from when RL starts. In the other
order, or mixed, the noise of the guesses drowns the copying.

The outputs are what the interpreter of this project gives for these programs; a test runs them for real and compares.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from pydantic import Field

from retool_env.config import Config
from retool_env.outcome import ToolStatus
from retool_env.problems import Problem
from retool_env.recorded import RecordedTurn, Recording
from retool_env.seeding import derive
from retool_env.sources.arithmetic import EASY_FAMILIES, ArithmeticSource
from retool_env.tools import NO_OUTPUT

__all__ = ["TracePhase", "arithmetic_traces"]


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
    num: int, *, seed: int, phases: Sequence[TracePhase], families: dict[str, float] | None = None
) -> Iterator[Recording]:
    """``num`` traces of training problems, phase after phase; trace ``i`` depends on ``seed`` and ``i`` alone."""
    source = ArithmeticSource(split="train", seed=derive(seed, "traces"), families=families)
    total = sum(phase.share for phase in phases)
    ends = [round(num * sum(p.share for p in phases[: k + 1]) / total) for k in range(len(phases))]
    for index in range(num):
        phase = next(phase for phase, end in zip(phases, ends, strict=True) if index < end)
        yield _trace(random.Random(derive(seed, "trace", index)), source.problem(index), phase)


def _trace(rng: random.Random, problem: Problem, phase: TracePhase) -> Recording:
    tool = phase.tool_easy if problem.family in EASY_FAMILIES else phase.tool_hard
    draw = rng.random()
    if draw < tool:
        turns = [_call(rng, problem), _answer(problem.answer)]
    elif draw < tool + phase.no_print:
        turns = [_silent_call(rng, problem), _answer(_guess(rng, problem))]
    elif draw < tool + phase.no_print + phase.repair:
        turns = [_broken_call(rng, problem), _call(rng, problem, intro="Fix it. "), _answer(problem.answer)]
    else:
        intro = rng.choice(["This is easy. ", "I can do it in my head. "])
        turns = [_answer(_guess(rng, problem), intro=intro)]
    return Recording(problem=problem, turns=tuple(turns))


def _program(problem: Problem, statement: str) -> str:
    return f"<code>\n```python\n{problem.metadata['imports']}{statement}\n```\n</code>"


def _intro(rng: random.Random) -> str:
    return rng.choice(["Let me run code. ", "I will use python. "])


def _call(rng: random.Random, problem: Problem, intro: str = "") -> RecordedTurn:
    statement = f"print({problem.metadata['expression']})"
    return RecordedTurn(text=(intro or _intro(rng)) + _program(problem, statement), outputs=(problem.answer,))


def _silent_call(rng: random.Random, problem: Problem) -> RecordedTurn:
    statement = f"x = {problem.metadata['expression']}"
    return RecordedTurn(text=_intro(rng) + _program(problem, statement), outputs=(NO_OUTPUT,))


def _broken_call(rng: random.Random, problem: Problem) -> RecordedTurn:
    program = _program(problem, f"prin({problem.metadata['expression']})")
    message = "NameError: name 'prin' is not defined"
    return RecordedTurn(text=_intro(rng) + program, outputs=(message,), status=ToolStatus.ERROR)


def _answer(answer: str, intro: str = "") -> RecordedTurn:
    return RecordedTurn(text=f"{intro}<answer>\\boxed{{{answer}}}</answer>")


def _guess(rng: random.Random, problem: Problem) -> str:
    """An answer without computing: right for the easy family, else a number as long as the right one."""
    if problem.family in EASY_FAMILIES:
        return problem.answer
    digits = len(problem.answer)
    return str(rng.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
