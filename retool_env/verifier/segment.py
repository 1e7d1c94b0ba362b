"""Cut a response down to the part that may carry its answer.

Purpose: only what the model says last, outside of reasoning, code and tool output, may be rewarded.
Contract: pure, never raises, linear in the length of the text. Left out: the answer markers (:mod:`.extract`).
"""

from __future__ import annotations

import re

__all__ = ["final_segment"]

_END_OF_TURN = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<eos>", "</s>")
_HEADER = "<|im_start|>"
_THINK, _END_THINK = "<think>", "</think>"
_REGIONS = {
    "<code>": "</code>",
    "<interpreter>": "</interpreter>",
    "<tool_call>": "</tool_call>",
    "<tool_response>": "</tool_response>",
    "```": "```",
}
_REGION_TAG = re.compile("|".join(re.escape(tag) for tag in {**_REGIONS, **dict.fromkeys(_REGIONS.values())}))


def final_segment(text: str) -> str | None:
    """What may carry the answer; None when the reasoning never closes."""
    text = _first_turn(text)
    text = text[text.rfind(_END_THINK) + len(_END_THINK) :] if _END_THINK in text else text
    return None if _THINK in text else _without_regions(text)


def _first_turn(text: str) -> str:
    if text.startswith(_HEADER):
        text = text[text.find("\n") + 1 :] if "\n" in text else text[len(_HEADER) :]
    ends = (text.find(token) for token in _END_OF_TURN)
    return text[: min((end for end in ends if end >= 0), default=len(text))]


def _without_regions(text: str) -> str:
    """The text without code and tool regions; an unclosed region removes the rest."""
    kept: list[str] = []
    position = 0
    while tag := _REGION_TAG.search(text, position):
        kept.append(text[position : tag.start()])
        closer = _REGIONS.get(tag[0])
        if closer is None:
            # A closer without its opener: the cut at </think> fell inside of a region, so all before it was in there.
            kept.clear()
            position = tag.end()
            continue
        close = text.find(closer, tag.end())
        if close < 0:
            return "\n".join(kept)
        position = close + len(closer)
    kept.append(text[position:])
    return "\n".join(kept)
