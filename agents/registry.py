"""Agents by name: the built-in ones, installed ones, and a class in a file.

A name stands for a factory: something that is called with an :class:`AgentSetup` and the ``agent.options`` as keyword
arguments, and gives an :class:`~agents.base.Agent`. A class whose constructor takes these is a factory. Installed ones
are entry points of the group ``retool.agents``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

from agents.base import Agent
from agents.config import AgentConfig
from retool_env.config import EnvConfig
from retool_env.dialects import Dialect, make_dialect
from retool_env.errors import UsageError, did_you_mean
from retool_env.feeder import ProblemSource
from retool_env.modules import load_module, split_source
from retool_env.tokenizer import Tokenizer, load_tokenizer

__all__ = ["AgentSetup", "make_agent"]

GROUP: Final = "retool.agents"
_BUILT_IN: Final = {
    "embedded": "agents.factories:embedded",
    "human": "agents.factories:human",
    "openai": "agents.factories:openai",
    "oracle": "agents.factories:oracle",
    "random": "agents.factories:random",
    "scripted": "agents.factories:scripted",
    "sglang": "agents.factories:sglang",
}
Factory = Callable[..., Agent]


@dataclass(frozen=True, kw_only=True)
class AgentSetup:
    """What an agent is made for.

    Attributes:
        config: the section ``agent``.
        env: the environment it will act in.
        source: the problems it will be asked.
        seed: of the run.
        threads: of torch; ``None`` for all cores.
    """

    config: AgentConfig
    env: EnvConfig
    source: ProblemSource
    seed: int = 0
    threads: int | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The environment's."""
        return load_tokenizer(self.env.tokenizer)

    @property
    def dialect(self) -> Dialect:
        """The environment's."""
        return make_dialect(self.env.dialect, instructions=self.env.instructions)


def make_agent(setup: AgentSetup) -> Agent:
    """The agent that ``setup.config`` names. Whoever made it closes it, if it has a ``close``.

    Raises:
        UsageError: there is none of that name, an option it does not have, or what the agent itself refuses.
    """
    name, options = setup.config.name, setup.config.options or {}
    factory = _find(name)
    try:
        inspect.signature(factory).bind(setup, **options)
    except TypeError as error:
        raise UsageError(f"agent={name!r} with agent.options={options}: {error}; see docs/agents.md") from error
    agent = factory(setup, **options)
    if not callable(getattr(agent, "act", None)):
        raise UsageError(f"agent={name!r}: {type(agent).__name__} has no method act(request); see docs/agents.md")
    return agent


def _find(name: str) -> Factory:
    location, attribute = split_source(_BUILT_IN.get(name, name))
    if attribute:
        module = importlib.import_module(location) if name in _BUILT_IN else load_module(location, what="agent")
        return _callable(name, getattr(module, attribute, None), attribute, vars(module))
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name not in installed:
        known = did_you_mean(name, [*_BUILT_IN, *installed])
        raise UsageError(f"agent={name!r} is unknown{known}; or give path/to/file.py:Class")
    try:
        found = installed[name].load()
    except Exception as error:
        raise UsageError(
            f"agent={name!r} ({installed[name].value}) cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    return _callable(name, found, installed[name].value, {})


def _callable(name: str, found: Any, attribute: str, known: dict[str, Any]) -> Factory:
    if not callable(found):
        raise UsageError(f"agent={name!r}: no class or function {attribute!r} in it{did_you_mean(attribute, known)}")
    factory: Factory = found
    return factory
