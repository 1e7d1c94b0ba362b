"""GEM: its maths environment with its Python tool wrapper.

Set to what costs it least: the grader in this process (a worker process is its default) and its tool without a sandbox
(its default; a new interpreter for each call).
"""

from __future__ import annotations

from datasets import Dataset
from driver import CODE, GOLD, QUESTION, Play, answers, serve
from gem.envs.math_env import MathEnv
from gem.tools.python_code_tool import PythonCodeTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper

ROWS = 10_000  # so that its shuffle between epochs does not count


def problems() -> MathEnv:
    rows = Dataset.from_dict({"problem": [QUESTION] * ROWS, "answer": [GOLD] * ROWS})
    return MathEnv(dataset=rows, use_mp=False)


def answer_only() -> Play:
    env, script = problems(), answers()

    def play() -> int:
        env.reset()
        assert env.step(next(script))[1] == 1.0
        return 1

    return play


def with_tool() -> Play:
    env, script = ToolEnvWrapper(problems(), tools=[PythonCodeTool()]), answers()

    def play() -> int:
        env.reset()
        seen = env.step(f"<python>{CODE}</python>")[0]
        assert GOLD in seen, seen
        assert env.step(next(script))[1] == 1.0
        return 2

    return play


serve({"answer": answer_only(), "tool": with_tool()})
