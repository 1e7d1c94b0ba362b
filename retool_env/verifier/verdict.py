"""What the verifier says about one response."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Verdict"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement of one answer.

    Attributes:
        correct: the answer equals the gold.
        answered: an answer was found at all.
        answer: the answer as extracted, ``""`` when none was found.
        marker: what the answer stood in: ``boxed``, ``answer_tag``, ``answer_line`` or ``""``.
        method: what decided: ``exact``, ``symbolic`` or ``none``.
        reason: one word for the metrics; ``retool_env.verifier`` lists them. ``truncated`` is the environment's own:
            the episode was cut by a budget and not graded.
        elapsed: seconds spent; a time field, outside of any bit-equality.
    """

    correct: bool
    answered: bool
    answer: str = ""
    marker: str = ""
    method: str = "none"
    reason: str = ""
    elapsed: float = 0.0
