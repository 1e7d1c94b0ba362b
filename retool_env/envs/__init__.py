"""Gymnasium environments and their registration.

Registered by import string, so that importing the package imports no environment code.
"""

from __future__ import annotations

import gymnasium

__all__ = ["register_envs"]

_TOKENS = {
    "entry_point": "retool_env.envs.math_tool:MathToolEnv",
    "vector_entry_point": "retool_env.envs.vector:token_vector",
}
_TEXT = {
    "entry_point": "retool_env.envs.text:MathToolTextEnv",
    "vector_entry_point": "retool_env.envs.vector:text_vector",
}


def register_envs() -> None:
    """Register the environment ids; called once by ``import retool_env``."""
    if "retool/MathTool-v0" in gymnasium.registry:
        return
    gymnasium.register(id="retool/MathTool-v0", **_TOKENS)
    gymnasium.register(id="retool/MathToolText-v0", **_TEXT)
    gymnasium.register(id="retool/Math-v0", kwargs={"tools": []}, **_TOKENS)
    gymnasium.register(id="retool/Arithmetic-v0", kwargs={"problems": "arithmetic"}, **_TOKENS)
