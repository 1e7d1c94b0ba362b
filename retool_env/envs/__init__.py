"""Gymnasium environments and their registration.

Registered by import string, so that importing the package imports no environment code.
"""

from __future__ import annotations

from typing import Any

import gymnasium

__all__ = ["register_envs"]

_TOKENS = ("retool_env.envs.math_tool:MathToolEnv", "retool_env.envs.vector:token_vector")
_TEXT = ("retool_env.envs.text:MathToolTextEnv", "retool_env.envs.vector:text_vector")


def _register(name: str, entry_points: tuple[str, str], **kwargs: Any) -> None:
    single, vector = entry_points
    gymnasium.register(id=name, entry_point=single, vector_entry_point=vector, kwargs=kwargs)


def register_envs() -> None:
    """Register the environment ids; called once by ``import retool_env``."""
    if "retool/MathTool-v0" in gymnasium.registry:
        return
    _register("retool/MathTool-v0", _TOKENS)
    _register("retool/MathToolText-v0", _TEXT)
    _register("retool/Math-v0", _TOKENS, tools=[])
    _register("retool/Arithmetic-v0", _TOKENS, problems="arithmetic")
