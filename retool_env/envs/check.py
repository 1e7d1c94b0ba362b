"""Look at problems, and at a remote sandbox, before anything is run."""

from __future__ import annotations

from retool_env.config import EnvConfig
from retool_env.dialects import make_dialect
from retool_env.envs.toolbox import INTERPRETER, tool_specs
from retool_env.episode import Episode
from retool_env.errors import UsageError
from retool_env.feeder import ProblemSource
from retool_env.sandbox.registry import open_sandbox
from retool_env.tokenizer import load_tokenizer

__all__ = ["check_prompts", "check_sandbox"]

SAMPLE = 256
REMOTE = "fusion"


def check_sandbox(env: EnvConfig) -> None:
    """Run a program where programs are to run, if that is a server: it may be away, full, or want a token.

    Raises:
        UsageError: it runs none; says why.
    """
    if INTERPRETER not in env.tools or not env.sandbox.startswith(REMOTE):
        return
    sandbox = open_sandbox(env.sandbox)
    try:
        result = sandbox.health()
    finally:
        sandbox.close()
    if result.stdout != "ok\n":
        raise UsageError(
            f"env.sandbox={env.sandbox!r} runs no program: {' '.join(result.stderr.split())}; start the server "
            "(`retool sandbox serve --port 8080`), correct the address, or leave env.sandbox out for the local one"
        )


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
