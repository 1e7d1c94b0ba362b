"""Look at problems before anything is run on them."""

from __future__ import annotations

from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import tool_specs
from retool_env.episode import Episode
from retool_env.feeder import ProblemSource
from retool_env.tokenizer import load_tokenizer

__all__ = ["check_prompts"]

SAMPLE = 256


def check_prompts(source: ProblemSource, env: EnvConfig) -> None:
    """Begin an episode of every problem, or of the first few hundred of an endless source.

    Raises:
        UsageError: a prompt leaves no room for an answer; names the problem and the setting.
    """
    dialect = make_dialect(env.dialect, instructions=env.instructions)
    tokenizer = load_tokenizer(env.tokenizer)
    tools = tool_specs(env)
    for index in range(SAMPLE if source.size is None else source.size):
        problem = source.problem(index)
        Episode(problem, dialect=dialect, tokenizer=tokenizer, limits=env.episode_limits, tools=tools)
