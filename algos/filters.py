"""Which scored episodes are trained on.

A filtered episode enters the baseline of its group like any other and is left out of the loss and of its denominator:
what it says about the problem is true, only what it says about its tokens is not to be learnt from.
"""

from __future__ import annotations

from retool_env.outcome import Outcome
from retool_env.record import EpisodeRecord

__all__ = ["trains"]

CUT_BY_LENGTH = (Outcome.CONTEXT_FULL, Outcome.TURN_TOO_LONG)


def trains(record: EpisodeRecord, *, mask_overlong: bool = False, mask_void: bool = False) -> bool:
    """Whether the loss reads an episode.

    Args:
        mask_overlong: leave out episodes that a length limit cut (overlong filtering, 2503.14476): they are wrong for
            want of room. The soft penalty on length instead is the reward part ``overlong``.
        mask_void: leave out episodes with a turn that neither called a tool nor answered (SimpleTIR, 2509.02479).
    """
    if mask_overlong and record.outcome in CUT_BY_LENGTH:
        return False
    return not (mask_void and record.num_void_turns)
