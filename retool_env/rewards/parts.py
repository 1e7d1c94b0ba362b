r"""The built-in reward parts.

Purpose: one function per part, of an episode and of its own options (keyword-only, numbers).
Contract: the parts here read the verdict, counts and outcomes, i.e. only what the policy wrote; those that read tool
results are in :mod:`.tool_parts`. An episode without a verdict (infrastructure ended it) is ``None``, unscored.

======================  ============================================================================================
``accuracy``            1 right, 0 wrong
``pm1``                 +1 right, -1 wrong: the paper's (2504.11536), and the default
``pm1_noanswer``        +1 right, -1 wrong, ``no_answer`` (-0.5) without an answer. Below 25 % accuracy it pays to
                        abstain, so watch ``answered/mean``
``strategic``           right answers are worth ``1 - cost`` for each call, at least 0; wrong ones 0. Charging failed
                        answers as well teaches the policy never to call, because early on most calls end in failure
``retool_shaped``       verl's: wrong is ``min(-0.6, -1 + 0.1 * rounds)``. It pays for calls whether or not they
                        helped; ``decay_episodes`` lets the bonus fade out
``format``              1 for an answer where every call was well-formed, else 0; give it a small weight
``overlong``            DAPO's: 0 up to ``max_tokens - buffer`` sampled tokens, then down to -1 at ``max_tokens``; -1
                        for an episode that was cut by a length limit
``void_turn``           -1 when the last turn neither called a tool nor answered, else 0; with ``drop=1`` such an
                        episode is unscored instead
``tool_partial``        :mod:`.tool_parts`: reads tool results
``tool_selection``      :mod:`.tool_parts`: reads tool results
======================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retool_env.outcome import Outcome
from retool_env.record import EpisodeRecord
from retool_env.rewards import tool_parts

__all__ = ["REWARDS", "PartFunction", "PartKind"]

PartFunction = Callable[..., float | None]
_CUT_BY_LENGTH = (Outcome.CONTEXT_FULL, Outcome.TURN_TOO_LONG)
_VOID = (Outcome.NO_ANSWER, Outcome.VOID_TURNS, Outcome.TURN_TOO_LONG)


@dataclass(frozen=True, kw_only=True)
class PartKind:
    """A part that can be asked for by name."""

    function: PartFunction
    reads_tool_results: bool = False
    needs_tokens: bool = False


def accuracy(record: EpisodeRecord) -> float | None:
    """1 for a right answer, 0 for any other."""
    return None if record.verdict is None else float(record.verdict.correct)


def pm1(record: EpisodeRecord) -> float | None:
    """+1 for a right answer, -1 for any other."""
    return None if record.verdict is None else 2.0 * record.verdict.correct - 1.0


def pm1_noanswer(record: EpisodeRecord, *, no_answer: float = -0.5) -> float | None:
    """+1 for a right answer, -1 for a wrong one, ``no_answer`` for none."""
    if record.verdict is None or record.verdict.answered:
        return pm1(record)
    return no_answer


def strategic(record: EpisodeRecord, *, cost: float = 0.5) -> float | None:
    """A right answer is worth ``1 - cost`` per tool call, at least 0; a wrong one 0."""
    if record.verdict is None:
        return None
    return max(0.0, 1.0 - cost * record.num_tool_calls) if record.verdict.correct else 0.0


def retool_shaped(record: EpisodeRecord, *, bonus: float = 0.1, decay_episodes: float = 0.0) -> float | None:
    """+1, or -1 plus ``bonus`` per tool round up to -0.6; the bonus fades to 0 over ``decay_episodes`` of a run."""
    if record.verdict is None or record.verdict.correct:
        return pm1(record)
    left = max(0.0, 1.0 - record.ticket / decay_episodes) if decay_episodes > 0 else 1.0
    return min(-0.6, -1.0 + left * bonus * record.num_tool_rounds)


def well_formed(record: EpisodeRecord) -> float | None:
    """1 when there is an answer and no call was malformed."""
    if record.verdict is None:
        return None
    return float(record.verdict.answered and not any(call.status.invalid for call in record.calls))


def overlong(record: EpisodeRecord, *, max_tokens: float = 16384, buffer: float = 4096) -> float | None:
    """DAPO's soft penalty on the number of sampled tokens, in [-1, 0]."""
    if record.outcome.failed:
        return None
    if record.outcome in _CUT_BY_LENGTH:
        return -1.0
    return max(-1.0, min(0.0, (max_tokens - buffer - record.num_action_tokens) / buffer))


def void_turn(record: EpisodeRecord, *, drop: float = 0.0) -> float | None:
    """-1 (or unscored) when the episode ended in a turn without a call and without an answer."""
    if record.outcome.failed or (drop and record.outcome in _VOID):
        return None
    return -1.0 if record.outcome in _VOID else 0.0


REWARDS: Mapping[str, PartKind] = {
    "accuracy": PartKind(function=accuracy),
    "pm1": PartKind(function=pm1),
    "pm1_noanswer": PartKind(function=pm1_noanswer),
    "strategic": PartKind(function=strategic),
    "retool_shaped": PartKind(function=retool_shaped),
    "format": PartKind(function=well_formed),
    "overlong": PartKind(function=overlong, needs_tokens=True),
    "void_turn": PartKind(function=void_turn),
    "tool_partial": PartKind(function=tool_parts.tool_partial, reads_tool_results=True),
    "tool_selection": PartKind(function=tool_parts.tool_selection, reads_tool_results=True),
}
