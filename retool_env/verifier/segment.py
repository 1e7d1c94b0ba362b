"""Cut a response down to the part that may carry its answer.

Purpose: only what the model says last, outside of reasoning, code and tool output, may be rewarded.
Contract: pure, never raises, linear in the length of the text. Left out: the answer markers (:mod:`.extract`).
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["final_segment"]

# Grouped by what they begin with: a megabyte is searched for the beginning once, and for the rest only if it is there.
_END_OF_TURN = {
    "<|": ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>"),
    "<e": ("<eos>", "<end_of_turn>"),
    "</s": ("</s>",),
}
_HEADER = "<|im_start|>"
_THINK, _END_THINK = "<think>", "</think>"
_FENCE = "```"
_REGIONS = {
    "<code>": "</code>",
    "<interpreter>": "</interpreter>",
    "<tool_call>": "</tool_call>",
    "<tool_response>": "</tool_response>",
    _FENCE: _FENCE,
}


def final_segment(text: str) -> str | None:
    """What may carry the answer; None when the reasoning never closes."""
    text = _first_turn(text)
    text = text[text.rfind(_END_THINK) + len(_END_THINK) :] if _END_THINK in text else text
    return None if _THINK in text else _without_regions(text)


def _first_turn(text: str) -> str:
    if text.startswith(_HEADER):
        text = text[text.find("\n") + 1 :] if "\n" in text else text[len(_HEADER) :]
    ends = (text.find(token) for begin, tokens in _END_OF_TURN.items() if begin in text for token in tokens)
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def _without_regions(text: str) -> str:
    """The text without code and tool regions; an unclosed region removes the rest."""
    present = tuple(pair for pair in _REGIONS.items() if pair[0] in text or pair[1] in text)
    if not present:
        return text
    if present == ((_FENCE, _FENCE),):
        return "\n".join(text.split(_FENCE)[::2])
    pieces = _region_pattern(present).split(text)
    # A closer without its opener: the cut at </think> fell inside of a region, so all before it was in there.
    strays = [position for position in range(1, len(pieces), 2) if pieces[position]]
    return "\n".join(pieces[strays[-1] + 1 if strays else 0 :: 2])


@lru_cache
def _region_pattern(regions: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    """One region, open to the end of the text when it is never closed, or (captured) a closer without its opener.

    All tags that begin with ``<`` are one alternative, which lets the regular expression look for that character alone.
    """
    inner = "|".join(rf"{opener[1:]}.*?(?:{closer}|\Z)" for opener, closer in regions if opener != _FENCE)
    strays = "|".join(closer[1:] for opener, closer in regions if opener != _FENCE)
    fences = [rf"{_FENCE}.*?(?:{_FENCE}|\Z)"] if (_FENCE, _FENCE) in regions else []
    return re.compile("|".join([rf"<(?:{inner}|({strays}))", *fences]), re.DOTALL)
