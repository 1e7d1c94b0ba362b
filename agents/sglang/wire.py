"""What SGLang's endpoints say, as models that keep only what is read here.

Servers of different ages leave out different fields, and a request that was aborted in the queue has no counts at all,
so everything but the ids has a default. What is checked is what a trainer builds on: as many log-probabilities as ids,
for the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator

from agents.base import Sampling

__all__ = [
    "FinishReason",
    "GenerateReply",
    "GenerateRequest",
    "Load",
    "MetaInfo",
    "ModelInfo",
    "PauseMode",
    "ServerInfo",
    "UpdateReply",
    "VersionSpan",
    "error_message",
    "parse_replies",
]

PauseMode = Literal["abort", "retract", "in_place"]


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class FinishReason(_Wire):
    """Why a generation ended. ``matched`` is the stop id or string; an ``abort`` has a ``message``."""

    type: Literal["stop", "length", "abort"]
    matched: JsonValue = None
    message: str | None = None


class VersionSpan(_Wire):
    """The ids ``start .. end - 1`` of a generation were sampled from weights called ``version``."""

    version: str
    start: int
    end: int


class MetaInfo(_Wire):
    """What a reply says about itself.

    Attributes:
        output_token_logprobs: ``(log-probability, id, text or None)`` of every sampled id.
        weight_version: name of the weights at the end; ``None`` on servers that do not know.
        weight_versions: names by span; empty on servers before 0.5.20.
    """

    id: str = ""
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    cached_tokens: int = 0
    num_retractions: int = 0
    weight_version: str | None = None
    weight_versions: tuple[VersionSpan, ...] = ()
    output_token_logprobs: list[tuple[float | None, int, str | None]] = Field(default_factory=list)

    @field_validator("weight_versions", "output_token_logprobs", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return [] if value is None else value


class GenerateReply(_Wire):
    """One finished request. ``text`` is for people: it is cut at stop strings, ``output_ids`` never."""

    text: str = ""
    output_ids: list[int] = Field(default_factory=list)
    meta_info: MetaInfo

    @property
    def logprobs(self) -> list[float]:
        """Of ``output_ids``, NaN where the server gave none for a whole reply."""
        rows = self.meta_info.output_token_logprobs
        assert [token for _, token, _ in rows] == self.output_ids, "the log-probabilities are not those of the ids"
        return [float("nan") if logprob is None else logprob for logprob, _, _ in rows]

    @property
    def version_names(self) -> list[str | None]:
        """The name of the weights that each id was sampled from."""
        names = [self.meta_info.weight_version] * len(self.output_ids)
        for span in self.meta_info.weight_versions:
            names[span.start : span.end] = [span.version] * len(names[span.start : span.end])
        return names


_REPLIES: TypeAdapter[GenerateReply | list[GenerateReply]] = TypeAdapter(GenerateReply | list[GenerateReply])


def parse_replies(body: bytes) -> list[GenerateReply]:
    """The answer of ``/generate``: an object for one request, a list for several. Raises :class:`ValueError`."""
    replies = _REPLIES.validate_json(body)
    return replies if isinstance(replies, list) else [replies]


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """One request of ``/generate``.

    Attributes:
        rid: names it. A server aborts every request whose rid *begins* with the given one, so all must be equally long.
        input_ids: the whole context.
        max_new_tokens: most ids to sample.
        stop: strings that end it.
        stop_token_ids: ids that end it, beside the end ids of the server's own model.
        seed: honoured by servers in deterministic mode.
    """

    rid: str
    input_ids: Sequence[int]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0

    def body(self) -> dict[str, JsonValue]:
        """The JSON body. Every sampling setting is written out: a server's defaults may be its model's."""
        return {
            "rid": self.rid,
            "input_ids": list(self.input_ids),
            "return_logprob": True,
            "sampling_params": {
                "max_new_tokens": self.max_new_tokens,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "top_k": self.sampling.top_k or -1,
                "min_p": 0.0,
                "frequency_penalty": 0.0,
                "presence_penalty": 0.0,
                "repetition_penalty": 1.0,
                "n": 1,
                "stop": list(self.stop),
                "stop_token_ids": list(self.stop_token_ids),
                "skip_special_tokens": False,
                "sampling_seed": self.seed % 2**31,
            },
        }


class ModelInfo(_Wire):
    """``GET /model_info``. ``weight_version`` is free text, ``default`` on a server that was just started."""

    model_path: str
    weight_version: str | None = None


class ServerInfo(_Wire):
    """The part of ``GET /server_info`` that a client may want."""

    version: str = ""
    model_path: str = ""
    tp_size: int = 1
    dp_size: int = 1
    context_length: int | None = None
    max_running_requests: int | None = None


class Load(_Wire):
    """How busy one replica of a server is."""

    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    token_usage: float = 0.0


class Loads(_Wire):
    """``GET /v1/loads``."""

    loads: tuple[Load, ...] = ()


class UpdateReply(_Wire):
    """What a weight update came to.

    Attributes:
        success: the weights are the new ones.
        flushed: caches of the old weights are gone; when false, :meth:`SGLangServer.flush_cache` has to follow before
            anything is generated.
    """

    success: bool
    message: str = ""
    flushed: bool = True


class _Card(_Wire):
    max_model_len: int | None = None


class ModelList(_Wire):
    """``GET /v1/models``."""

    data: tuple[_Card, ...] = ()

    @property
    def context_length(self) -> int | None:
        return self.data[0].max_model_len if self.data else None


class _Rank(_Wire):
    checksums: dict[str, str] = Field(default_factory=dict)


class Checksums(_Wire):
    """``POST /weights_checker``."""

    ranks: tuple[_Rank, ...] = ()


class _Detail(_Wire):
    message: str = ""


class _Error(_Wire):
    error: _Detail | str | None = None
    message: str | None = None


def error_message(body: bytes) -> str:
    """What an error says, in any of the shapes that SGLang uses, as one line."""
    try:
        told = _Error.model_validate_json(body)
    except ValueError:
        return " ".join(body.decode(errors="replace").split())[:300]
    detail = told.error.message if isinstance(told.error, _Detail) else told.error
    return " ".join((detail or told.message or body.decode(errors="replace")).split())[:500]
