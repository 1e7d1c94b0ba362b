"""Gymnasium environments and their registration.

Registered by import string, so that importing the package imports no environment code.
"""

from __future__ import annotations

import gymnasium

__all__ = ["register_envs"]

ENTRY_POINT = "retool_env.envs.math_tool:MathToolEnv"


def register_envs() -> None:
    """Register the environment ids; called once by ``import retool_env``."""
    if "retool/MathTool-v0" not in gymnasium.registry:
        gymnasium.register(id="retool/MathTool-v0", entry_point=ENTRY_POINT)
        gymnasium.register(id="retool/Arithmetic-v0", entry_point=ENTRY_POINT, kwargs={"problems": "arithmetic"})
