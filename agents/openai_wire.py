"""What a chat endpoint answers, as far as it is read, and what its refusals mean.

Servers differ in what they leave out: ``null`` stands for what is not known, arguments may be an object where the
protocol has its text, content may be a list of parts, of which those of text are read, and half a surrogate pair, which
a model can write, becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

from retool_env.dialects.json_calls import without_halves

__all__ = ["Choice", "Completion", "Models", "read_completion", "says_full", "told"]

_FULL: Final = re.compile(
    r"context_length_exceeded|exceed_context_size|(?:maximum|model's|available) context (?:length|size)|context window",
    re.IGNORECASE,
)
_FAILED: Final = frozenset({"abort", "error", "insufficient_system_resource"})
"""Words of SGLang, vLLM and DeepSeek for a generation that the server gave up."""


class _Wire(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Function(_Wire):
    name: str
    arguments: str = ""

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return json.dumps(value) if isinstance(value, dict) else "" if value is None else value


class _Call(_Wire):
    function: _Function


class _Message(_Wire):
    content: str | None = None
    tool_calls: tuple[_Call, ...] | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type", "text") == "text"]
        return "".join(text for text in texts if isinstance(text, str))


class Choice(_Wire):
    """``matched_stop`` is SGLang's word for what ``stop_reason`` is to vLLM; OpenAI has none."""

    message: _Message
    finish_reason: str | None = None
    matched_stop: JsonValue = None
    stop_reason: JsonValue = None

    @property
    def failed(self) -> bool:
        """The server gave the generation up, so that what there is of it is no turn of the policy. No reason and
        nothing written is the same; text without a reason is a turn, because there are servers that give none."""
        nothing = not (self.message.content or self.message.tool_calls)
        return self.finish_reason in _FAILED or (not self.finish_reason and nothing)


class _Usage(_Wire):
    completion_tokens: int | None = None


class Completion(_Wire):
    """A chat completion."""

    choices: tuple[Choice, ...]
    usage: _Usage | None = None

    @property
    def num_counted(self) -> int:
        """Tokens by the endpoint's count; 0 where it does not say."""
        return (self.usage.completion_tokens if self.usage else None) or 0


class _Model(_Wire):
    id: str


class Models(_Wire):
    """The answer of ``/models``."""

    data: tuple[_Model, ...]


def read_completion(content: bytes) -> Completion:
    """The completion in an answer.

    Raises:
        ValueError: it is none.
    """
    return Completion.model_validate_json(without_halves(content.decode("utf-8", "replace")))


def says_full(answer: httpx.Response) -> bool:
    """Whether a refusal says that prompt and budget are more than the model's context; every server has words of its
    own for that."""
    return _FULL.search(answer.text) is not None


def told(answer: httpx.Response) -> str:
    """What a refusal says, in one line."""
    return " ".join(answer.text.split())[:300]
