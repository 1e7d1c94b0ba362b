"""The reward signatures of the founding guides.

Purpose: score texts and conversations without an environment, and call functions that users wrote for such trainers.

    compute_reward(text, gold) -> (reward, details)
    reward_func(completions, answer, **columns) -> [reward, ...]

``completions`` is one list of messages for each sample (or its text), ``answer`` the expected answers (text, or numbers
as a column of numbers has them; a user's function gets them as they are), and every other column of the data set
arrives as a keyword argument: a list with one entry for each completion.
Contract: ``None`` is unscored. What a user's function returns is checked: one finite number or ``None`` for each
completion. Mean and standard deviation of each batch are logged (logger ``retool_env.rewards``, level INFO).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from statistics import fmean, pstdev
from typing import Any

from retool_env.errors import InfrastructureError, UsageError
from retool_env.record import EpisodeRecord
from retool_env.rewards.conversation import messages_of, record_of
from retool_env.rewards.loading import load_function
from retool_env.rewards.parts import REWARDS, PartKind
from retool_env.verifier import verify, verify_batch

__all__ = ["RewardFunction", "compute_reward", "load_reward_function", "reward_func"]

Completion = str | Sequence[Mapping[str, object]]
Gold = str | float
_log = logging.getLogger("retool_env.rewards")


def compute_reward(
    text: str,
    gold: Gold,
    reward_correct: float = 1.0,
    reward_wrong: float = -1.0,
    reward_no_answer: float = -0.5,
) -> tuple[float, dict[str, object]]:
    r"""The reward of one response, and how it came about.

    >>> reward, details = compute_reward(r"So it is \boxed{41}.", "42")
    >>> reward, details["predicted"], details["reason"]
    (-1.0, '41', 'different')

    Returns:
        The reward, and a dictionary with ``predicted``, ``ground_truth``, ``correct``, ``answered`` and ``reason``.

    Raises:
        InfrastructureError: the verifier cannot run, so nothing is known about the response.
    """
    gold = _text(0, gold)
    verdict = verify(text, gold)
    if verdict.reason == "outage":
        raise InfrastructureError("the verifier's worker does not start; try: python -c 'import math_verify'")
    reward = reward_correct if verdict.correct else reward_wrong if verdict.answered else reward_no_answer
    details: dict[str, object] = {
        "predicted": verdict.answer,
        "ground_truth": gold,
        "correct": verdict.correct,
        "answered": verdict.answered,
        "reason": verdict.reason,
    }
    return reward, details


def reward_func(completions: Sequence[Completion], answer: Sequence[Gold], **columns: Any) -> list[float | None]:
    r"""1 for each right answer and 0 for any other: the built-in ``accuracy``.

    >>> reward_func([r"So \boxed{42}.", [{"role": "assistant", "content": r"\boxed{41}"}]], answer=["42", 42])
    [1.0, 0.0]

    Raises:
        UsageError: not as many answers as completions, or a column of another length.
    """
    return load_reward_function("accuracy")(completions, answer, **columns)


@dataclass(frozen=True, kw_only=True)
class RewardFunction:
    """A reward with the signature of :func:`reward_func`: a built-in part or a user's function."""

    name: str
    function: Callable[..., Any]
    reads_tool_results: bool

    def __call__(self, completions: Sequence[Completion], answer: Sequence[Gold], **columns: Any) -> list[float | None]:
        """One reward for each completion; ``None`` for an unscored one.

        Raises:
            UsageError: lengths that differ, a value that is neither a finite number nor ``None``, or an error in the
                user's function.
        """
        if len(completions) != len(answer):
            raise UsageError(f"{self.name}: {len(completions)} completions but {len(answer)} answers")
        try:
            returned = self.function(completions, answer, **columns)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"{self.name} raised {type(error).__name__}: {error}") from error
        rewards = self._checked(returned, len(completions))
        scored = [reward for reward in rewards if reward is not None]
        if scored:
            _log.info("%s: n=%d mean=%.4f std=%.4f", self.name, len(scored), fmean(scored), pstdev(scored))
        return rewards

    def score(self, record: EpisodeRecord) -> float | None:
        """The reward of one episode; the facts about its problem arrive as columns."""
        problem = record.problem
        facts = {"prompt": problem.question, "id": problem.id, "source": problem.source, "family": problem.family}
        columns = {name: [value] for name, value in {**facts, **problem.metadata}.items() if name != "answer"}
        return self([messages_of(record)], [problem.answer], **columns)[0]

    def _checked(self, returned: object, expected: int) -> list[float | None]:
        if isinstance(returned, str | Mapping) or not hasattr(returned, "__iter__"):
            raise UsageError(f"{self.name} returned a {type(returned).__name__}; expected a list of {expected} rewards")
        values = list(returned)
        if len(values) != expected:
            raise UsageError(f"{self.name} returned {len(values)} rewards for {expected} completions")
        return [self._number(index, value) for index, value in enumerate(values)]

    def _number(self, index: int, value: object) -> float | None:
        if value is None:
            return None
        try:
            number = float(value)  # type: ignore[arg-type]  # numpy and torch scalars are welcome
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UsageError(f"{self.name} returned {value!r} for completion {index}; use a finite number, or None")
        return number


@lru_cache(maxsize=64)
def load_reward_function(where: str) -> RewardFunction:
    """The function called ``where``: a built-in part (``accuracy``), a Python file or a module.

    A user's function is taken to read tool results, which it is given, unless it has an attribute
    ``reads_tool_results = False``.

    Raises:
        UsageError: an unknown name, or what :func:`~retool_env.rewards.loading.load_function` says.
    """
    kind = REWARDS.get(where)
    if kind is None:
        function = load_function(where, tuple(REWARDS))
        reads = bool(getattr(function, "reads_tool_results", True))
        return RewardFunction(name=where, function=function, reads_tool_results=reads)
    if kind.needs_tokens:
        raise UsageError(f"reward {where!r} counts sampled tokens, which messages do not carry; use it in env.reward")
    return RewardFunction(name=where, function=_batched(kind), reads_tool_results=kind.reads_tool_results)


def _batched(kind: PartKind) -> Callable[..., list[float | None]]:
    """A built-in part over conversations."""

    def rewards(completions: Sequence[Completion], answer: Sequence[Gold], **columns: Any) -> list[float | None]:
        for name, column in columns.items():
            if isinstance(column, list | tuple) and len(column) != len(completions):
                raise UsageError(f"column {name!r} has {len(column)} entries for {len(completions)} completions")
        golds = [_text(index, gold) for index, gold in enumerate(answer)]
        verdicts = verify_batch(completions, golds)
        return [
            kind.function(record_of(completion, gold, verdict, _row(columns, index)))
            for index, (completion, gold, verdict) in enumerate(zip(completions, golds, verdicts, strict=True))
        ]

    return rewards


def _text(index: int, gold: Gold) -> str:
    """The expected answer as text; a column of numbers holds numbers."""
    if not isinstance(gold, str | Real):
        raise UsageError(f"answer {index} is a {type(gold).__name__}, {str(gold)[:60]!r}; give text or a number")
    return str(gold)


def _row(columns: Mapping[str, Any], index: int) -> dict[str, str]:
    """The text entries of one row."""
    row = {name: column[index] for name, column in columns.items() if isinstance(column, list | tuple)}
    return {name: value for name, value in row.items() if isinstance(value, str)}
