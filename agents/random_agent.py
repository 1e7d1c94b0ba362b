"""An agent that writes at random: the floor that every policy is compared with, and a test of all that reads text."""

from __future__ import annotations

import string
from typing import Final

import numpy as np

from agents.base import Generation, Request, check_request
from agents.stops import end_of_turn
from agents.writing import write_turn
from retool_env.errors import UsageError
from retool_env.seeding import derive
from retool_env.tokenizer import Tokenizer

__all__ = ["RandomAgent"]

_CHARACTERS: Final = np.array(list(string.printable))


class RandomAgent:
    """Turns of random length; the same request gets the same turn.

    Args:
        text: write printable characters instead of drawing ids from the whole vocabulary.
        mean_length: ids, or characters, before the end of a turn, on average.
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int = 0, text: bool = False, mean_length: int = 32) -> None:
        if mean_length < 1:
            raise UsageError(f"mean_length={mean_length}: must be at least 1")
        self._tokenizer = tokenizer
        self._seed, self._text, self._mean_length = seed, text, mean_length

    def act(self, request: Request) -> Generation:
        check_request(request, self._tokenizer.vocab_size)
        if request.cancel is not None and request.cancel.cancelled:
            return Generation.aborted()
        key = derive(self._seed, "random", request.seed)
        rng = np.random.Generator(np.random.Philox(key=key))
        length = int(rng.geometric(1 / self._mean_length))
        if self._text:
            return write_turn("".join(rng.choice(_CHARACTERS, length)), request, self._tokenizer)
        return self._draw(rng, min(length, request.budget + 1), request)

    def _draw(self, rng: np.random.Generator, length: int, request: Request) -> Generation:
        eos = self._tokenizer.eos_id
        ids = rng.integers(self._tokenizer.vocab_size, size=length).tolist()
        ids = [*ids[: ids.index(eos)], eos] if eos in ids else [*ids, eos]
        end = end_of_turn(ids, request.stop, self._tokenizer) or len(ids)
        return Generation.written(ids[: min(end, request.budget)], "stop" if end <= request.budget else "length")
