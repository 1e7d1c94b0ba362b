"""What can be set about problems and environment.

The names are the same in ``gymnasium.make``, in YAML and on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from retool_env.dialects import make_dialect
from retool_env.episode import EpisodeLimits
from retool_env.errors import UsageError, did_you_mean
from retool_env.rewards import make_reward
from retool_env.sandbox.base import Limits, Mode
from retool_env.sandbox.registry import check_name
from retool_env.tools import Traceback
from retool_env.verifier.others import load_verifier

RewardWeights = dict[str, float | dict[str, float]] | str

__all__ = ["Config", "EnvConfig", "PartConfig", "ProblemsConfig", "SourceConfig", "check_config", "is_secret"]


class Config(BaseModel):
    """Base of every configuration: immutable, and a key that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


C = TypeVar("C", bound=Config)


def check_config(kind: type[C], values: Mapping[str, Any], *, where: str = "") -> C:
    """``kind(**values)``, with the first mistake told in one line.

    >>> check_config(EnvConfig, {"dialekt": "retool"}, where="env")
    Traceback (most recent call last):
    retool_env.errors.UsageError: unknown key 'env.dialekt'; did you mean 'dialect'?

    Args:
        where: dotted prefix of the keys in the message (``env``).

    Raises:
        UsageError: names the key, the value unless it is a secret, and what was expected.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        key = ".".join([where, *path] if where else path)
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown key {key!r}{did_you_mean(path[-1], _fields(kind, path[:-1]))}") from error
        message = first["msg"].removeprefix("Value error, ") + _nearest(first)
        shown = path and first["type"] != "missing" and not isinstance(first["input"], dict)
        shown = shown and not is_secret(kind, path)
        value = f"{key}={first['input']!r}: " if shown else f"{key}: " if path else ""
        raise UsageError(f"{value}{message[:1].lower()}{message[1:]}") from error


def _nearest(error: ErrorDetails) -> str:
    """What may have been meant where only some words are allowed."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    hint = did_you_mean(error["input"], re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected"))))
    return hint if "did you mean" in hint else ""


def _fields(kind: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that exist at ``path``."""
    found = _model_at(kind, path)
    return list(found.model_fields) if found else []


def is_secret(kind: type[BaseModel], path: Sequence[str]) -> bool:
    """Whether the field at ``path`` is one that is neither printed nor stored."""
    found = _model_at(kind, path[:-1])
    field = found.model_fields.get(path[-1]) if found else None
    return field is not None and SecretStr in (field.annotation, *get_args(field.annotation))


def _model_at(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model at ``path``; a number in it is a place in a list."""
    found: type[BaseModel] | None = kind
    for name in path:
        if found is not None and not name.isdigit():
            found = _model_in(found.model_fields[name].annotation) if name in found.model_fields else None
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone or in a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


class SourceConfig(Config):
    """What can be set about a part of a mixture as about the whole.

    Attributes:
        name: ``arithmetic`` (procedural), ``file``, a layout of a file (``gsm8k``), ``mixture``, or your own
            ``path/to/file.py:Class``.
        path: a .jsonl, .json, .csv or .parquet file, or ``hf:owner/name`` for a data set on the hub.
        layout: of the file; ``null`` to find it out.
        split: ``train`` or ``heldout`` of a procedural source; any split of a data set on the hub.
        seed: of a procedural source, and of a mixture.
        size: first so many problems; ``null`` for all of a file, or an endless source.
        families: weights of a procedural source's families; ``null`` for equal ones.
        unique: leave out the questions of a file that came before.
        rates: bank of measured pass rates, written by ``retool data rates``.
        band: ``[lowest, highest]``: only problems with a pass rate between the two.
        curriculum: easy problems first, in every pass.
    """

    name: str = "arithmetic"
    path: str | None = None
    layout: str | None = None
    split: str = "train"
    seed: int = 0
    size: PositiveInt | None = None
    families: dict[str, float] | None = None
    unique: bool = True
    rates: str | None = None
    band: tuple[float, float] | None = None
    curriculum: bool = False


class PartConfig(SourceConfig):
    """One source of a mixture.

    Attributes:
        weight: its share, relative to the other parts.
    """

    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class ProblemsConfig(SourceConfig):
    """Where problems come from (see ``retool_env.sources.open_source``).

    Attributes:
        parts: of a mixture: ``[{name: gsm8k, path: a.jsonl, weight: 2}, ...]``, with the other keys of this section.
    """

    parts: tuple[PartConfig, ...] = ()


class EnvConfig(Config):
    """The environment.

    Attributes:
        dialect: how calls are written.
        instructions: put the dialect's instructions in front of the question.
        tokenizer: ``bytes``, or a folder with a ``tokenizer.json``.
        sandbox: who runs the programs: ``fork``, the local one, ``fusion`` (the server that SANDBOX_FUSION_ENDPOINT
            names) or ``fusion:http://host:8080``.
        tools: what the policy may call: ``code_interpreter``, ``path/to/file.py`` or ``package.module`` with
            ``TOOL_FUNCTIONS`` in it, ``file.py:name``, or an installed name; none for ``[]``.
        stateful: one interpreter for all programs of an episode instead of a fresh one for each.
        interpreter_mode: ``notebook`` echoes a last expression, ``script`` shows only what is printed.
        traceback: ``full``, or ``short`` for the line that names the exception.
        reward: part names with weights, or one name; a weight may be a mapping of ``weight`` and the part's options,
            a name the path of a Python file with a ``reward_func`` (see ``docs/rewards.md``).
        tool_cost: price of a call in the ``strategic`` reward.
        verifier: who says what is right: ``retool``, ``math_verify``, ``boxed_exact``, or your own as
            ``path/to/file.py:function`` (see ``docs/verifier.md``).
        max_context_tokens: ids of an episode, prompt included; a turn has at most what is left of them.
        max_turn_tokens: sampled ids of one turn.
        max_tool_rounds: executed rounds of calls; the last one may still be answered.
        max_tool_tokens: ids of one output; a longer one keeps its head and its tail.
        max_invalid_calls: turns in a row without a well-formed call, which then end the episode.
        max_calls_per_turn: calls of one turn that are run.
        max_void_turns: turns with neither call nor answer, of which the last one ends the episode.
        max_tool_rounds: rounds of calls that are run; one more turn is left for the answer.
        cpu_seconds: processor time of one program; see :class:`~retool_env.sandbox.base.Limits`.
        wall_seconds: wall-clock backstop of one program.
        memory_mb: memory of one program.
    """

    dialect: str = "retool"
    instructions: bool = True
    tokenizer: str = "bytes"
    sandbox: str = "fork"
    tools: tuple[str, ...] = ("code_interpreter",)
    stateful: bool = False
    interpreter_mode: Mode = "notebook"
    traceback: Traceback = "full"
    reward: RewardWeights = "pm1"
    tool_cost: float = Field(default=0.5, ge=0.0)
    verifier: str = "retool"
    max_context_tokens: PositiveInt = 16384
    max_turn_tokens: PositiveInt = 8192
    max_tool_rounds: int = Field(default=8, ge=0)
    max_tool_tokens: PositiveInt = 2048
    max_invalid_calls: PositiveInt = 3
    max_calls_per_turn: PositiveInt = 16
    max_void_turns: PositiveInt = 1
    cpu_seconds: PositiveFloat = 5.0
    wall_seconds: PositiveFloat = 20.0
    memory_mb: PositiveInt = 512

    @field_validator("reward")
    @classmethod
    def _known_reward(cls, reward: RewardWeights) -> RewardWeights:
        make_reward(reward)
        return reward

    @field_validator("verifier")
    @classmethod
    def _known_verifier(cls, verifier: str) -> str:
        load_verifier(verifier)
        return verifier

    @field_validator("sandbox")
    @classmethod
    def _known_sandbox(cls, sandbox: str) -> str:
        return check_name(sandbox)

    @field_validator("dialect")
    @classmethod
    def _known_dialect(cls, dialect: str) -> str:
        make_dialect(dialect)
        return dialect

    @model_validator(mode="after")
    def _backstop_is_behind_the_limit(self) -> EnvConfig:
        if self.wall_seconds < self.cpu_seconds:
            raise ValueError(f"wall_seconds={self.wall_seconds:g} must be at least cpu_seconds={self.cpu_seconds:g}")
        return self

    @model_validator(mode="after")
    def _sessions_need_a_sandbox_that_has_them(self) -> EnvConfig:
        if self.stateful and self.sandbox.startswith("fusion"):
            raise ValueError(f"stateful=true needs sandbox=fork: {self.sandbox!r} keeps no state between programs")
        return self

    @property
    def episode_limits(self) -> EpisodeLimits:
        return EpisodeLimits(
            max_context_tokens=self.max_context_tokens,
            max_turn_tokens=self.max_turn_tokens,
            max_tool_rounds=self.max_tool_rounds,
            max_tool_tokens=self.max_tool_tokens,
            max_invalid_calls=self.max_invalid_calls,
            max_calls_per_turn=self.max_calls_per_turn,
            max_void_turns=self.max_void_turns,
        )

    @property
    def sandbox_limits(self) -> Limits:
        return Limits(cpu_seconds=self.cpu_seconds, wall_seconds=self.wall_seconds, memory_mb=self.memory_mb)
