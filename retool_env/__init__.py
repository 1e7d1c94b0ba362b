"""The world of ReTool: problems, episodes, dialects, tools, sandbox, verifier, rewards and Gymnasium environments.

Importing it registers ``retool/MathTool-v0`` and ``retool/Arithmetic-v0``; it imports no torch and takes well under
half a second.
"""

from __future__ import annotations

from retool_env.envs import register_envs

__version__ = "0.1.0"

register_envs()
