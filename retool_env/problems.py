"""A problem: what is asked and what counts as right. Frozen, so that episodes may share it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

__all__ = ["Message", "Problem"]

NonBlank = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]


class Message(BaseModel):
    """One chat message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str


class Problem(BaseModel):
    """One question with its gold answer.

    Attributes:
        id: unique and stable within its source; results are joined on it.
        prompt: the question as text, or as chat messages that the dialect may extend.
        answer: the gold answer; never reaches the prompt or the sandbox.
        source: where it came from (``gsm8k``, ``arithmetic``).
        family: a label that metrics are broken down by; ``""`` for none.
        metadata: further facts, as strings; never shown to policy or tools.
        tools_kwargs: settings for its tools, by the name of the tool: what :meth:`retool_env.tools.ToolBox.open` takes.
            They reach the sandbox, so whoever makes a problem keeps the gold out of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: NonBlank
    prompt: NonBlank | tuple[Message, ...]
    answer: NonBlank
    source: str = ""
    family: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)
    tools_kwargs: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)

    @property
    def question(self) -> str:
        """The question as plain text: the prompt itself, or the last message of a chat prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1].content
