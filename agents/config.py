"""What can be set about an evaluation."""

from __future__ import annotations

from pydantic import PositiveInt

from agents.base import Sampling
from retool_env.config import Config, EnvConfig, ProblemsConfig

__all__ = ["AgentConfig", "EvalConfig"]


class AgentConfig(Config):
    """Who answers.

    Attributes:
        name: ``embedded`` samples from a checkpoint in this process; ``oracle`` runs a known program per problem.
        path: checkpoint folder in Hugging Face format, for ``embedded``.
    """

    name: str = "embedded"
    path: str | None = None


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
