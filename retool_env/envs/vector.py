"""Many environments in one: ``gymnasium.make_vec`` with tools of different episodes running at the same time.

A step of one environment mostly waits for its sandbox and its verifier, so threads are enough and nothing has to be
copied between processes. Everything else is Gymnasium's :class:`~gymnasium.vector.SyncVectorEnv`: spaces, seeding,
masked resets and the three autoreset modes, of which ``Disabled`` is the default here, because the other two hide
the last turn of an episode from a trainer.

In that mode an environment whose episode has ended is not stepped: it keeps its last observation and its flags, with
reward 0, at no cost, until ``reset(options={"reset_mask": ...})`` starts it again.

Changes: v0 first version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, iterate
from numpy.typing import NDArray

from retool_env.envs.math_tool import MathToolEnv
from retool_env.envs.text import MathToolTextEnv

__all__ = ["MathToolVectorEnv", "text_vector", "token_vector"]

_MOST_THREADS = 64
Flags = NDArray[np.bool_]


class MathToolVectorEnv(SyncVectorEnv):
    """``num_envs`` environments stepped by threads.

    Observations hold one array for each environment where the single space is a sequence, as episodes differ in
    length: ``observations["token_ids"]`` is a tuple of ``num_envs`` arrays ``[n_i]``.

    Args:
        makers: make one environment each.
        autoreset_mode: ``"Disabled"`` (default), ``"NextStep"`` or ``"SameStep"``, see Gymnasium.
        threads: at most so many environments are stepped at the same time.
    """

    def __init__(
        self,
        makers: Iterable[Callable[[], gymnasium.Env[Any, Any]]],
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
        threads: int | None = None,
    ) -> None:
        # Each environment makes fresh arrays for every observation, so nothing needs to be copied.
        super().__init__(list(makers), copy=False, autoreset_mode=autoreset_mode)
        self._pool = ThreadPoolExecutor(threads or min(self.num_envs, _MOST_THREADS), thread_name_prefix="retool-env")

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """One turn of every environment whose episode goes on."""
        each = list(iterate(self.action_space, actions))
        ended = self._autoreset_envs.copy()
        waiting = {
            index: self._pool.submit(self._advance, index, action, bool(ended[index]))
            for index, action in enumerate(each)
            if not (ended[index] and self.autoreset_mode is AutoresetMode.DISABLED)
        }
        infos: dict[str, Any] = {}
        self._rewards[ended] = 0.0
        for index, future in waiting.items():
            infos = self._take(index, future.result(), infos)
        self._autoreset_envs = np.logical_or(self._terminations, self._truncations)
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        flags = self._terminations.copy(), self._truncations.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._autoreset_envs[:] = False
        return self._observations, self._rewards.copy(), *flags, infos

    def _advance(self, index: int, action: Any, ended: bool) -> tuple[Any, ...]:
        env = self.envs[index]
        if ended and self.autoreset_mode is AutoresetMode.NEXT_STEP:
            observation, info = env.reset()
            return observation, 0.0, False, False, info, None
        observation, reward, terminated, truncated, info = env.step(action)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and (terminated or truncated):
            final = {"final_obs": observation, "final_info": info}
            observation, info = env.reset()
            return observation, reward, terminated, truncated, info, final
        return observation, reward, terminated, truncated, info, None

    def _take(self, index: int, result: tuple[Any, ...], infos: dict[str, Any]) -> dict[str, Any]:
        self._env_obs[index], self._rewards[index], terminated, truncated, info, final = result
        self._terminations[index], self._truncations[index] = terminated, truncated
        if final is not None:
            infos = self._add_info(infos, final, index)
        return self._add_info(infos, info, index)

    def close_extras(self, **kwargs: Any) -> None:
        self._pool.shutdown()
        super().close_extras(**kwargs)


def _make(
    kind: Callable[..., gymnasium.Env[Any, Any]],
    num_envs: int,
    autoreset_mode: AutoresetMode | str,
    threads: int | None,
    settings: dict[str, Any],
) -> MathToolVectorEnv:
    return MathToolVectorEnv(
        [lambda: kind(**settings) for _ in range(num_envs)], autoreset_mode=autoreset_mode, threads=threads
    )


def token_vector(
    *,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    threads: int | None = None,
    **settings: Any,
) -> MathToolVectorEnv:
    """Environments of the token view; ``settings`` are those of :class:`~retool_env.envs.math_tool.MathToolEnv`."""
    return _make(MathToolEnv, num_envs, autoreset_mode, threads, settings)


def text_vector(
    *,
    num_envs: int = 1,
    autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    threads: int | None = None,
    **settings: Any,
) -> MathToolVectorEnv:
    """Environments of the message view."""
    return _make(MathToolTextEnv, num_envs, autoreset_mode, threads, settings)
