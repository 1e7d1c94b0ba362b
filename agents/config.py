"""What can be set about an evaluation, and about playing oneself."""

from __future__ import annotations

from pydantic import (
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)

from agents.base import Sampling
from retool_env.config import Config, EnvConfig, ProblemsConfig
from retool_env.urls import MASK, mask_url

__all__ = ["AgentConfig", "EvalConfig", "PlayConfig"]

_MASKED_KEY = str(SecretStr("key"))


class AgentConfig(Config):
    """Who answers.

    Attributes:
        name: ``embedded`` samples from a checkpoint in this process, ``sglang`` from SGLang servers, ``openai`` asks a
            chat endpoint, ``oracle`` runs a known program per problem, ``random``, ``scripted`` and ``human`` write
            what their names say; ``path/to/file.py:Class`` or an installed name for your own.
        path: checkpoint folder in Hugging Face format; its tokenizer becomes the environment's.
        url: of the server, or a list of several, for ``sglang`` and ``openai``; ``openai`` has
            http://localhost:8000/v1 by default. A user and password in it are never written to the run folder.
        api_key: for the same; by default the environment variable SGLANG_API_KEY or OPENAI_API_KEY, and EMPTY for
            ``openai`` without one. Never written to the run folder.
        model: what the chat endpoint calls the model; where it has only one, that one.
        options: further settings of this agent, as ``{name: value, ...}``; see ``docs/agents.md``.
    """

    name: str = "embedded"
    path: str | None = None
    url: str | tuple[str, ...] | None = Field(default=None, repr=False)
    api_key: SecretStr | None = None
    model: str | None = None
    options: dict[str, JsonValue] | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """``url`` as a list, empty when not set."""
        return (self.url,) if isinstance(self.url, str) else self.url or ()

    @field_serializer("url")
    def _without_password(self, url: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        return mask_url(url) if isinstance(url, str) else url and tuple(map(mask_url, url))

    @field_validator("url")
    @classmethod
    def _has_password(cls, url: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if any(f"//{MASK}@" in one for one in ((url,) if isinstance(url, str) else url or ())):
            raise ValueError("its user and password were not stored; give agent.url again")
        return url

    @field_validator("api_key", mode="before")
    @classmethod
    def _not_stored(cls, key: object) -> object:
        """What a run folder has instead of a key is none."""
        return None if key == _MASKED_KEY else key


class EvalConfig(Config):
    """``retool eval``.

    Attributes:
        out: run folder; an interrupted run goes on where it stopped.
        seed: of sampling and sandbox.
        samples: per problem.
        num_slots: episodes in flight.
        ks: k of pass@k, maj@k, best@k and worst@k; powers of two up to ``samples``, and that number, by default.
        attempts: how often an episode that infrastructure ends is played before the run gives it up.
        max_failed_share: of the episodes; when sandbox, engine or verifier fail more often, the run stops.
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
    ks: tuple[PositiveInt, ...] | None = None
    attempts: PositiveInt = 2
    max_failed_share: float = Field(default=0.3, ge=0, le=1)
    threads: PositiveInt | None = None
    agent: AgentConfig = AgentConfig()
    problems: ProblemsConfig = ProblemsConfig()
    sampling: Sampling = Sampling()
    env: EnvConfig = EnvConfig()

    @model_validator(mode="after")
    def _enough_samples(self) -> EvalConfig:
        if too_large := [k for k in self.ks or () if k > self.samples]:
            raise ValueError(f"ks: k={too_large[0]} needs as many samples of a problem, and samples={self.samples}")
        return self


class PlayConfig(Config):
    """``retool play``.

    Attributes:
        index: number of the problem, from 0; ``null`` for one at random.
        seed: of the problem at random, and of the sandbox.
        out: run folder to keep the episodes in, for ``retool view``; ``null`` for none.
        problems: what is asked.
        env: the environment.
    """

    index: NonNegativeInt | None = None
    seed: int | None = None
    out: str | None = None
    problems: ProblemsConfig = ProblemsConfig()
    env: EnvConfig = EnvConfig()
