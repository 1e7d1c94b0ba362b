"""The floor: a bare Gymnasium environment with the same turns, whose tool is ``exec`` in this very process."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import gymnasium
from driver import CODE, GOLD, QUESTION, Play, answers, serve


class Floor(gymnasium.Env[str, str]):
    """No sandbox, no tokens, no verifier: what any environment behind ``gymnasium.make`` pays."""

    observation_space = gymnasium.spaces.Text(1000, min_length=0)
    action_space = gymnasium.spaces.Text(1000, min_length=0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return QUESTION, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if "boxed" in action:
            return "", float(f"boxed{{{GOLD}}}" in action), True, False, {}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(action, {})
        return printed.getvalue(), 0.0, False, False, {}


gymnasium.register("Floor-v0", entry_point=lambda **_: Floor())


def episode(*calls: str) -> Play:
    env = gymnasium.make("Floor-v0", disable_env_checker=True)
    script = answers()

    def play() -> int:
        env.reset()
        rewards = [env.step(action)[1] for action in (*calls, next(script))]
        assert rewards[-1] == 1.0, rewards
        return len(rewards)

    return play


serve({"answer": episode(), "tool": episode(CODE)})
