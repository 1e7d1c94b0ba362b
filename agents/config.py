"""What can be set about an evaluation."""

from __future__ import annotations

from pydantic import JsonValue, PositiveInt, SecretStr

from agents.base import Sampling
from retool_env.config import Config, EnvConfig, ProblemsConfig

__all__ = ["AgentConfig", "EvalConfig"]


class AgentConfig(Config):
    """Who answers.

    Attributes:
        name: ``embedded`` samples from a checkpoint in this process, ``sglang`` from SGLang servers, ``openai`` asks a
            chat endpoint, ``oracle`` runs a known program per problem, ``random``, ``scripted`` and ``human`` write
            what their names say; ``path/to/file.py:Class`` or an installed name for your own.
        path: checkpoint folder in Hugging Face format; its tokenizer becomes the environment's.
        url: of the server, or a list of several, for ``sglang`` and ``openai``.
        api_key: for the same; by default the environment variable SGLANG_API_KEY or OPENAI_API_KEY. Never written to
            the run folder.
        model: what the chat endpoint calls the model.
        options: further settings of this agent, as ``{name: value, ...}``; see ``docs/agents.md``.
    """

    name: str = "embedded"
    path: str | None = None
    url: str | tuple[str, ...] | None = None
    api_key: SecretStr | None = None
    model: str | None = None
    options: dict[str, JsonValue] | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """``url`` as a list, empty when not set."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()


class EvalConfig(Config):
    """``retool eval``.

    Attributes:
        out: run folder; an interrupted run goes on where it stopped.
        seed: of sampling and sandbox.
        samples: per problem.
        num_slots: episodes in flight.
        threads: of torch; ``null`` for all cores.
        agent: who answers.
        problems: what is asked.
        sampling: how.
        env: the environment.
    """

    out: str = "runs/eval"
    seed: int = 0
    samples: PositiveInt = 1
    num_slots: PositiveInt = 64
    threads: PositiveInt | None = None
    agent: AgentConfig = AgentConfig()
    problems: ProblemsConfig = ProblemsConfig()
    sampling: Sampling = Sampling()
    env: EnvConfig = EnvConfig()
