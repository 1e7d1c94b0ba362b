"""The agent contract: one request in, one generation out.

An agent is anything with a thread-safe ``act``. Ids are the contract: what it returns is what was sampled, with the
log-probabilities of exactly these ids, or NaN where the agent knows none (a script, an oracle, a chat endpoint).
An engine that fails raises :class:`~retool_env.errors.EngineError`; whoever drives the episode turns that into an
empty action.

An :class:`Engine` is an agent whose weights are trained while it samples. Its requests may span an update: every id
carries the version of the weights that it was sampled from.

Every request gives at least one id or raises, and never more than its budget. A turn ends behind the id that completes
a stop string or is the end-of-turn id; that id is returned, with its log-probability.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from retool_env.config import Config
from retool_env.errors import EngineError, UsageError
from retool_env.problems import Message
from retool_env.sandbox import Cancel
from retool_env.tools import ToolSpec

__all__ = ["Agent", "BatchAgent", "Engine", "Generation", "Request", "Sampling", "act_many", "check_request", "timed"]


class Sampling(Config):
    """How to sample.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: smallest set of tokens with this probability; 1 for all.
        top_k: this many most likely tokens; 0 for all.
    """

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)


PLAIN = Sampling()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One turn to generate.

    Attributes:
        token_ids: the whole context, ``[num_tokens]``.
        budget: most ids to sample.
        stop: strings that end the turn; the end-of-turn id always does.
        sampling: how to sample.
        seed: of this turn; the same request with the same seed gives the same ids in deterministic mode.
        session: names the episode, for engines that keep its KV cache.
        group: names the samples of one problem, which share a prompt.
        turn: number of the turn within the episode.
        cancel: ends the request from another thread; what was sampled until then comes back as ``abort``.
        messages: the context as a conversation, for agents whose ``reads_messages`` is true.
        tools: what can be called, for the same agents.
    """

    token_ids: NDArray[np.int64]
    budget: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = PLAIN
    seed: int = 0
    session: int = 0
    group: int = 0
    turn: int = 0
    cancel: Cancel | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[ToolSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was sampled.

    Attributes:
        token_ids: the sampled ids, the stop included, ``[num_new]``; empty only with ``abort``.
        logprobs: of ``softmax(logits / temperature)`` over the whole vocabulary, before top-k and top-p, with
            temperature 1 for greedy requests; float32 ``[num_new]``, NaN for unknown.
        finish_reason: ``stop``: the end-of-turn id or a stop string; ``length``: the budget; ``abort``: cancelled, or
            a failure.
        policy_version: version of the weights per id, ``[num_new]``; -1 where no policy sampled.
        num_counted: tokens by the count of an endpoint whose own ids are not known; 0 where there is no such count.
        seconds: that the request took, the others of its batch included; a time field, 0 when not measured.

    Raises:
        UsageError: not one log-probability and one version for every id: an agent's mistake, which broadcasting would
            hide where the arrays are written into an episode.
    """

    token_ids: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    finish_reason: Literal["stop", "length", "abort"]
    policy_version: NDArray[np.int64]
    num_counted: int = 0
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        shape = np.shape(self.token_ids)
        if len(shape) == 1 and shape == np.shape(self.logprobs) == np.shape(self.policy_version):
            return
        raise UsageError(
            f"the agent's Generation has token_ids of shape {shape}, logprobs of {np.shape(self.logprobs)} and "
            f"policy_version of {np.shape(self.policy_version)}; all three must be [num_new]: give one log-probability "
            "(NaN if unknown) and one version (-1 if no policy sampled) for every id"
        )

    @classmethod
    def written(
        cls, ids: Sequence[int], finish_reason: Literal["stop", "length"] = "stop", *, num_counted: int = 0
    ) -> Generation:
        """Ids that were written rather than sampled: no log-probabilities, no version."""
        return cls(
            token_ids=np.array(ids, dtype=np.int64),
            logprobs=np.full(len(ids), np.nan, dtype=np.float32),
            finish_reason=finish_reason,
            policy_version=np.full(len(ids), -1, dtype=np.int64),
            num_counted=num_counted,
        )

    @classmethod
    def aborted(cls) -> Generation:
        """Nothing was sampled: the engine failed."""
        empty = np.empty(0, dtype=np.int64)
        return cls(token_ids=empty, logprobs=np.empty(0, dtype=np.float32), finish_reason="abort", policy_version=empty)


@runtime_checkable
class Agent(Protocol):
    """Who writes the assistant's turns."""

    def act(self, request: Request) -> Generation:
        """Generate one turn. Thread-safe.

        Raises:
            EngineError: the engine failed, for good: an agent tries again on its own where that can help.
            UsageError: the request cannot be served by this agent, whatever its state.
        """
        ...


@runtime_checkable
class BatchAgent(Agent, Protocol):
    """An agent that is quicker with many requests at once."""

    def act_many(self, requests: Sequence[Request]) -> list[Generation]: ...


@runtime_checkable
class Engine(Agent, Protocol):
    """An agent that samples from weights which change."""

    @property
    def policy_version(self) -> int:
        """Version of the weights that the next id is sampled from."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is sampled inside the block. Requests in flight wait and go on behind it, with what they have."""
        ...

    def set_version(self, version: int) -> None:
        """The weights have changed: what was computed with the old ones is not used again. Call it when paused, or
        when no request is in flight."""
        ...

    def close(self) -> None:
        """End what runs and free what is held; idempotent."""
        ...


def check_request(request: Request, vocab_size: int) -> None:
    """Refuse what no agent can serve: an empty context, a budget of nothing, or ids that do not exist.

    Raises:
        UsageError: says which.
    """
    ids = request.token_ids
    if not len(ids) or request.budget < 1:
        raise UsageError(f"a request of {len(ids)} ids with a budget of {request.budget}: both must be at least 1")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise UsageError(
            f"the context has ids {ids.min()}..{ids.max()}, but the agent's vocabulary is [0, {vocab_size}); "
            "the environment's tokenizer must be that of the agent"
        )


def timed(act: Callable[[], Sequence[Generation]]) -> list[Generation]:
    """What ``act()`` gives, with the seconds that it took."""
    start = time.perf_counter()
    generations = act()
    seconds = time.perf_counter() - start
    return [replace(generation, seconds=seconds) for generation in generations]


def act_many(agent: Agent, requests: Sequence[Request]) -> list[Generation]:
    """All requests, as one batch where the agent can.

    Raises:
        EngineError: the engine failed; the message is logged, because episodes keep only the outcome.
    """
    try:
        # Not isinstance(agent, BatchAgent): for a protocol that costs more than a turn of the environment.
        many: Callable[[Sequence[Request]], list[Generation]] | None = getattr(agent, "act_many", None)
        if many is not None:
            return timed(lambda: many(requests))
        return [generation for request in requests for generation in timed(lambda r=request: [agent.act(r)])]  # type: ignore[misc]
    except EngineError as error:
        _log.error("the engine failed: %s", error)
        raise
    except RuntimeError as error:  # torch reports out-of-memory and device failures so
        _log.exception("the engine failed")
        raise EngineError(f"{type(error).__name__}: {error}") from error
