"""Turns that are written as text: a script, a person or a chat endpoint, encoded once and never again."""

from __future__ import annotations

from agents.base import Generation, Request
from retool_env.tokenizer import Tokenizer

__all__ = ["write_turn"]


def write_turn(
    text: str, request: Request, tokenizer: Tokenizer, *, ended: bool = True, num_counted: int = 0
) -> Generation:
    """``text`` as the turn that ``request`` asks for; no log-probabilities.

    It is cut behind the first stop string, as an engine would have stopped there; without one, an ``ended`` turn gets
    the end-of-turn id. Then it is cut to the budget. A turn of nothing is the end-of-turn id.
    """
    stops = [text.find(stop) + len(stop) for stop in request.stop if stop in text]
    ids = tokenizer.encode(text[: min(stops)] if stops else text)
    if not ids or (ended and not stops):
        ids.append(tokenizer.eos_id)
    cut = len(ids) > request.budget or not (ended or stops)
    return Generation.written(ids[: request.budget], "length" if cut else "stop", num_counted=num_counted)
