"""The world of ReTool: problems, episodes, dialects, tools, sandbox, verifier, rewards and Gymnasium environments.

Importing it registers ``retool/MathTool-v0`` and ``retool/Arithmetic-v0``; it imports no torch and takes well under
half a second.

>>> import gymnasium
>>> from retool_env.problems import Problem
>>> env = gymnasium.make("retool/MathToolText-v0", instructions=False)
>>> env.reset(options={"problem": Problem(id="p", prompt="What is 6 * 7?", answer="42")})[0]
'What is 6 * 7?\\n'
>>> env.step("<code>print(6 * 7)</code>")[0]
'\\n<interpreter>\\n42\\n</interpreter>\\n'
>>> text, reward, terminated, truncated, info = env.step("<answer>42</answer>")
>>> reward, terminated
(1.0, True)
>>> env.close()
"""

from __future__ import annotations

from retool_env.envs import register_envs

__version__ = "0.1.0"

register_envs()
