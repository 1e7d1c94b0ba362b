"""The built-in agents, made from a configuration. Heavy imports are inside, so that an agent costs what it needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import JsonValue

from agents.base import Agent
from agents.registry import AgentSetup
from agents.sglang.wire import PauseMode
from retool_env.errors import EngineError, UsageError
from retool_env.urls import mask_url

__all__ = ["BYTES_PER_TOKEN", "embedded", "human", "openai", "oracle", "random", "scripted", "sglang"]

LOCAL_ENDPOINT: Final = "http://localhost:8000/v1"
NO_KEY: Final = "EMPTY"  # what servers expect that ask for no key
BYTES_PER_TOKEN: Final = 4
"""Of English and mathematics, about: for endpoints whose tokenizer is not known."""


def embedded(setup: AgentSetup) -> Agent:
    """The checkpoint at ``agent.path``, in this process, in deterministic mode."""
    if setup.config.path is None:
        raise UsageError("agent.path is not set; give the checkpoint folder, or agent=oracle")
    from agents.embedded import EmbeddedAgent
    from agents.loading import check_context, load_model, setup_torch

    setup_torch(seed=setup.seed, threads=setup.threads, deterministic=True)
    model = load_model(setup.config.path)
    check_context(model.config, setup.env)
    return EmbeddedAgent(model, setup.tokenizer)


def sglang(
    setup: AgentSetup,
    *,
    workers: Sequence[str] = (),
    pause_mode: PauseMode = "retract",
    context_length: int | None = None,
    seconds: float = 900.0,
    patience: float = 300.0,
    max_attempts: int = 5,
) -> Agent:
    """The servers at ``agent.url``; the options are those of :class:`~agents.sglang.SGLangAgent`."""
    from agents.sglang import SGLangAgent

    agent = SGLangAgent(
        setup.config.urls,
        setup.tokenizer,
        workers=workers,
        api_key=_key(setup, "SGLANG_API_KEY"),
        pause_mode=pause_mode,
        context_length=context_length,
        seconds=seconds,
        patience=patience,
        max_attempts=max_attempts,
    )
    try:
        limit = agent.context_length()
    except EngineError as error:
        raise UsageError(f"agent.url={_shown(setup)}: {error}; is the server running?") from error
    if limit is not None and setup.env.max_context_tokens > limit:
        raise UsageError(
            f"env.max_context_tokens={setup.env.max_context_tokens}: {limit} fit into the server's context; set "
            f"env.max_context_tokens={limit} or less, or start the server with a larger --context-length"
        )
    return agent


def openai(
    setup: AgentSetup,
    *,
    structured: bool = True,
    extra: Mapping[str, JsonValue] | None = None,
    seconds: float = 600.0,
    max_attempts: int = 8,
) -> Agent:
    """The model ``agent.model`` at the chat endpoint ``agent.url``; see :class:`~agents.openai_chat.OpenAIAgent`."""
    from agents.openai_chat import OpenAIAgent

    urls = setup.config.urls or (LOCAL_ENDPOINT,)
    if len(urls) != 1:
        raise UsageError(f"agent.url={_shown(setup)}: agent=openai asks one endpoint; give one URL, as https://host/v1")
    agent = OpenAIAgent(
        urls[0],
        setup.config.model,
        setup.tokenizer,
        setup.dialect,
        api_key=_key(setup, "OPENAI_API_KEY") or NO_KEY,
        structured=structured,
        extra=extra,
        seconds=seconds,
        max_attempts=max_attempts,
        ids_per_token=BYTES_PER_TOKEN if setup.env.tokenizer == "bytes" else 1,
    )
    try:
        agent.connect()
    except UsageError:
        agent.close()
        raise
    return agent


def oracle(setup: AgentSetup) -> Agent:
    """Runs the program that is known to solve each problem."""
    from agents.scripted import OracleAgent

    size = setup.source.size
    if size is None:
        raise UsageError("agent=oracle has to know all problems; set problems.size")
    return OracleAgent(map(setup.source.problem, range(size)), setup.tokenizer, setup.dialect)


def scripted(setup: AgentSetup, *, turns: Sequence[str]) -> Agent:
    """Writes ``turns``, one after the other, in every episode, and the last one again when there is no other."""
    from agents.scripted import ScriptedAgent

    if not turns:
        raise UsageError("agent.options.turns=[]: give at least one text")
    return ScriptedAgent(lambda _, turn: turns[min(turn, len(turns) - 1)], setup.tokenizer)


def random(setup: AgentSetup, *, text: bool = False, mean_length: int = 32) -> Agent:
    """Random ids, or random printable text."""
    from agents.random_agent import RandomAgent

    return RandomAgent(setup.tokenizer, seed=setup.seed, text=text, mean_length=mean_length)


def human(setup: AgentSetup) -> Agent:
    """A person at this terminal."""
    from agents.human import HumanAgent

    return HumanAgent(setup.tokenizer, setup.dialect)


def _shown(setup: AgentSetup) -> str:
    shown = [mask_url(url) for url in setup.config.urls]
    return repr(shown[0] if len(shown) == 1 else shown)


def _key(setup: AgentSetup, variable: str) -> str | None:
    given = setup.config.api_key
    return given.get_secret_value() if given else os.environ.get(variable)
