"""``retool/MathToolText-v0``: the same episodes in text, for people, scripts and models behind a chat endpoint.

The observation is the text that is new since the last one: first the prompt, then what tools returned. The action is
the text of one assistant turn. Underneath runs a :class:`~retool_env.envs.math_tool.MathToolEnv` with the same
settings, so both views play the same episodes and earn the same rewards; the token limits count the text's ids.

An action is cut to the turn's budget, as a model's would be. A turn that does not end in one of the dialect's stop
strings gets the end-of-turn token. Left out: log-probabilities and ids of the policy, which text does not have; train
in the token view.
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from retool_env.envs.math_tool import MathToolEnv
from retool_env.envs.spaces import FreeText
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.tokenizer import Tokenizer

__all__ = ["MathToolTextEnv", "TextView", "to_action", "unseen_text"]

_CHARACTERS_PER_TOKEN = 32


def to_action(episode: Episode, text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The ids of one turn's text, cut to the budget; ``[m]``, at least one.

    What follows the dialect's first stop string is dropped, as an engine would never have sampled it.
    """
    if not isinstance(text, str):
        raise UsageError(f"a text action must be a str, got {type(text).__name__}; the token view takes ids")
    stops = [(text.find(stop) + len(stop)) for stop in episode.dialect.stop if stop in text]
    ids = tokenizer.encode(text[: min(stops)] if stops else text)
    if not stops:
        ids = [*ids, tokenizer.eos_id]
    return np.array(ids[: max(1, episode.budget)], dtype=np.int64)


def unseen_text(episode: Episode, seen: int) -> str:
    """What the environment has appended behind token ``seen``."""
    return episode.tokenizer.decode(episode.token_ids[seen:])


class TextView(gymnasium.Wrapper[str, Any, Any, Any]):
    """The message view of a token environment: ``TextView(gymnasium.make("retool/MathTool-v0"))``.

    ``reset`` returns the prompt, ``step`` the text that follows the turn (``""`` at the end of an episode).
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env.unwrapped, MathToolEnv):
            raise UsageError(f"TextView needs a token environment such as retool/MathTool-v0, got {env}")
        self._base = env.unwrapped
        longest = _CHARACTERS_PER_TOKEN * self._base.config.max_context_tokens
        self.observation_space = FreeText(longest)
        self.action_space = FreeText(longest)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        return unseen_text(self._base.episode, 0), info

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        episode = self._base.episode
        ids = to_action(episode, action, episode.tokenizer)
        seen = len(episode.token_ids) + len(ids)
        _, reward, terminated, truncated, info = self.env.step(ids)
        return unseen_text(episode, seen), reward, terminated, truncated, info


class MathToolTextEnv(gymnasium.Env[str, str]):
    """The message view as an environment of its own. Keywords are those of
    :class:`~retool_env.envs.math_tool.MathToolEnv`, which is at ``tokens``, with the running episode."""

    metadata = MathToolEnv.metadata

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        self.tokens = MathToolEnv(render_mode=render_mode, **settings)
        self._view = TextView(self.tokens)
        self.render_mode = render_mode
        self.observation_space = self._view.observation_space
        self.action_space = self._view.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return self._view.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        return self._view.step(action)

    def render(self) -> str | None:
        return self.tokens.render()

    def close(self) -> None:
        self.tokens.close()
