"""Wrappers for the token environment: one token a step, and recording.

``TextView`` is in ``text``. Gymnasium's own wrappers work unchanged, ``RecordEpisodeStatistics`` and ``TimeLimit``
(in turns) among them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from retool_env.envs.math_tool import MathToolEnv, Observation
from retool_env.errors import UsageError
from retool_env.trajectory import Trajectory, append_trajectories
from retool_env.transcript import Transcript

__all__ = ["RecordTrajectories", "TokenByToken"]

Step = tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]


def _token_env(env: gymnasium.Env[Any, Any], wrapper: str) -> MathToolEnv:
    if not isinstance(env.unwrapped, MathToolEnv):
        raise UsageError(f"{wrapper} needs a token environment such as retool/MathTool-v0, got {env}")
    return env.unwrapped


class TokenByToken(gymnasium.Wrapper[Observation, Any, Any, Any]):
    """One step is one token, as in classic token-level reinforcement learning.

    The action is a single id. The turn is handed to the environment when the token is the end-of-turn token, when the
    turn's text holds a stop string of the dialect, or when its budget is used up; until then the reward is 0. The
    observation shows the context with the tokens so far, and what is left of the budget.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._base = _token_env(env, "TokenByToken")
        vocabulary = self._base.action_space
        self.action_space = spaces.Discrete(vocabulary.vocab_size)  # type: ignore[attr-defined]
        self._turn: list[int] = []
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self._turn = []
        self._observation, info = self.env.reset(seed=seed, options=options)
        return self._observation, info

    def step(self, action: np.int64) -> Step:
        self._turn.append(int(action))
        if not self._complete():
            return self._so_far(), 0.0, False, False, {}
        ids, self._turn = np.array(self._turn, dtype=np.int64), []
        self._observation, reward, terminated, truncated, info = self.env.step(ids)
        return self._observation, reward, terminated, truncated, info

    def _complete(self) -> bool:
        episode = self._base.episode
        if self._turn[-1] == episode.tokenizer.eos_id or len(self._turn) >= episode.budget:
            return True
        text = episode.tokenizer.decode(self._turn)
        # Not endswith: one token may hold the end of a stop string and what follows it.
        return any(stop in text for stop in episode.dialect.stop)

    def _so_far(self) -> Observation:
        turn = np.array(self._turn, dtype=np.int64)
        return {
            **self._observation,
            "token_ids": np.concatenate([self._observation["token_ids"], turn]),
            "budget": self._observation["budget"] - len(turn),
        }


class RecordTrajectories(gymnasium.Wrapper[Observation, NDArray[np.int64], Any, Any]):
    """Append every finished episode to a JSONL file of :class:`~retool_env.trajectory.Trajectory`.

    The policy's log-probabilities are not known here and are recorded as missing. An episode that a wrapper inside,
    such as ``TimeLimit``, cuts off is ended as ``cancelled``, unscored, as its last observation says too.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], path: str | Path) -> None:
        super().__init__(env)
        self._base = _token_env(env, "RecordTrajectories")
        self._path = Path(path)

    def step(self, action: NDArray[np.int64]) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            if self._base.episode.outcome is None:
                self._base.cancel()
            append_trajectories(self._path, [self._trajectory()])
        return observation, reward, terminated, truncated, info

    def _trajectory(self) -> Trajectory:
        episode, ticket = self._base.episode, self._base.ticket
        mask = np.array(episode.action_mask, dtype=np.bool_)
        return Trajectory(
            ticket=ticket.index,
            group=ticket.group,
            sample=ticket.sample,
            record=self._base.record,
            transcript=Transcript(
                token_ids=np.array(episode.token_ids, dtype=np.int64),
                action_mask=mask,
                logprobs=np.full(len(mask), np.nan, dtype=np.float32),
                policy_version=np.full(len(mask), -1, dtype=np.int64),
                spans=tuple(episode.spans),
            ),
        )
