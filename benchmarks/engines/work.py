"""What is generated: one-shot samples of skewed lengths, and episodes with programs that really run.

Lengths are budgets, because a model with random weights does not know when to stop: log-normal, from many short ones to
a few long ones, the same for every engine. An episode's turns are cut by their budgets; behind every turn but the last
a program runs in the sandbox and what it prints is appended, as a turn that ends in a call would have it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, BatchAgent, Request
from retool_env.sandbox import RunStatus, Sandbox
from retool_env.tokenizer import Tokenizer

IN_FLIGHT = 64
GROUP = 8
PROGRAM = "for n in range(1, 5):\n    print(n, sum(k * k for k in range({seed} + n)))"


@dataclass(frozen=True, kw_only=True)
class Episode:
    """``budgets`` ids are sampled turn by turn, with a program's output in between."""

    number: int
    prompt: NDArray[np.int64]
    budgets: tuple[int, ...]

    def request(self, ids: NDArray[np.int64], turn: int) -> Request:
        return Request(
            token_ids=ids,
            budget=self.budgets[turn],
            seed=self.number * 100 + turn,
            session=self.number,
            group=self.number // GROUP,
            turn=turn,
        )


def make_episodes(
    count: int, *, turns: tuple[int, int], median: int, limits: tuple[int, int], tokenizer: Tokenizer, seed: int
) -> list[Episode]:
    """Episodes of between ``turns[0]`` and ``turns[1]`` turns; eight in a row share their prompt."""
    rng = np.random.default_rng(seed)
    episodes = []
    for number in range(count):
        if number % GROUP == 0:
            a, b, c = rng.integers(100, 999, size=3)
            text = f"Compute {a} * {b} modulo {c}, then explain the result in one sentence with the numbers used.\n"
            prompt = np.array(tokenizer.encode(text), dtype=np.int64)
        lengths = np.exp(rng.normal(np.log(median), 0.8, size=rng.integers(turns[0], turns[1] + 1)))
        budgets = tuple(int(length) for length in np.clip(lengths, *limits))
        episodes.append(Episode(number=number, prompt=prompt, budgets=budgets))
    return episodes


class Player:
    """Plays episodes with an agent, at most 64 at a time."""

    def __init__(self, episodes: Sequence[Episode], sandbox: Sandbox, tokenizer: Tokenizer) -> None:
        self._episodes, self._sandbox, self._tokenizer = episodes, sandbox, tokenizer

    def free(self, agent: Agent, serve: Callable[[Callable[[], bool]], None], poke: Callable[[], None]) -> int:
        """A thread per episode in flight: no turn waits for another's. Returns the number of ids sampled."""
        ended: list[None] = []

        def play(episode: Episode) -> int:
            try:
                return self._play(agent, episode)
            finally:
                ended.append(None)
                poke()

        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            counts = [pool.submit(play, episode) for episode in self._episodes]
            serve(lambda: len(ended) == len(counts))
            return sum(count.result() for count in counts)

    def _play(self, agent: Agent, episode: Episode) -> int:
        ids, count = episode.prompt, 0
        for turn in range(len(episode.budgets)):
            generation = agent.act(episode.request(ids, turn))
            count += len(generation.token_ids)
            if turn + 1 < len(episode.budgets):
                ids = np.concatenate([ids, generation.token_ids, self._output(episode.number + turn)])
        return count

    def rounds(self, agent: BatchAgent) -> int:
        """All turns in flight as one batch, then all their programs, and so on. Returns the number of ids sampled."""
        left = iter(self._episodes)
        live = [(e, e.prompt, 0) for e in itertools.islice(left, IN_FLIGHT)]
        count = 0
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            while live:
                made = agent.act_many([episode.request(ids, turn) for episode, ids, turn in live])
                count += sum(len(generation.token_ids) for generation in made)
                more = [turn + 1 < len(episode.budgets) for episode, _, turn in live]
                outputs = pool.map(
                    self._output, [e.number + t for (e, _, t), goes_on in zip(live, more, strict=True) if goes_on]
                )
                live = [
                    (episode, np.concatenate([ids, generation.token_ids, next(outputs)]), turn + 1)
                    if goes_on
                    else (following, following.prompt, 0)
                    for (episode, ids, turn), generation, goes_on in zip(live, made, more, strict=True)
                    if goes_on or (following := next(left, None)) is not None
                ]
        return count

    def _output(self, seed: int) -> NDArray[np.int64]:
        result = self._sandbox.run(PROGRAM.format(seed=seed))
        assert result.status == RunStatus.OK, result
        text = f"</code>\n<interpreter>\n{result.stdout}</interpreter>\n"
        return np.array(self._tokenizer.encode(text), dtype=np.int64)


def together(agent: BatchAgent, episodes: Sequence[Episode]) -> int:
    """First turns only, as one batch. Returns the number of ids sampled."""
    made = agent.act_many([episode.request(episode.prompt, 0) for episode in episodes])
    return sum(len(generation.token_ids) for generation in made)
