"""Chat templates: a conversation as the text that a model was trained on.

:class:`ChatTemplate` renders a Jinja template as transformers does, so a model folder's own template gives the same
text here. :meth:`ChatTemplate.reply` is what makes multi-turn token streams exact: it renders *only the new part* of a
conversation, cut out of a rendering of a stand-in conversation right behind the token that ends the assistant's turn.
What the model sampled is never rendered again, so a newline between ``<|im_end|>`` and the next message is kept and a
thought that the template would strip from older turns stays where the model put it.

Left out: ``strftime_now`` is not defined, because a prompt must not depend on the day; templates fall back to a fixed
date. Templates for several modalities are not supported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NoReturn

from retool_env.errors import MissingExtraError, UsageError
from retool_env.problems import Message
from retool_env.tools.spec import ToolSpec

__all__ = ["ChatTemplate", "plain_chat", "plain_reply"]

MARK: Final = "retool-stand-in"
_SPOKEN: Final = (Message(role="user", content="?"), Message(role="assistant", content=MARK))

_TOOLS: Final = """\
You may call these tools:
{tools}
Write a call as <tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>.
"""


def plain_chat(messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> str:
    """The conversation for a model without a chat template: each content on its own line, tools in front."""
    listed = "\n".join(json.dumps(tool.openai(), ensure_ascii=False) for tool in tools)
    text = _TOOLS.format(tools=listed) if tools else ""
    return text + "".join(_plain(message) for message in messages)


def plain_reply(messages: Sequence[Message]) -> str:
    """What follows an assistant's turn that ended, for a model without a chat template."""
    return "\n" + plain_chat(messages)


def _plain(message: Message) -> str:
    if message.role == "tool":
        return f"<tool_response>\n{message.content}\n</tool_response>\n"
    return message.content + "\n"


class ChatTemplate:
    """A model's own template.

    Args:
        source: the Jinja text.
        eos: the token that ends the assistant's turn.
        variables: further names that templates use (``bos_token``).

    Raises:
        UsageError: it is no template.
        MissingExtraError: the ``[tokens]`` extra is not installed.
    """

    def __init__(self, source: str, *, eos: str, variables: Mapping[str, str] | None = None) -> None:
        try:
            from jinja2.exceptions import TemplateSyntaxError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingExtraError("a chat template", "tokens") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        self._eos = eos
        self._variables = {"eos_token": eos, **(variables or {})}
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise UsageError(f"the chat template is broken in line {error.lineno}: {error.message}") from error

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, opened: bool = True) -> str:
        """The conversation.

        Args:
            tools: what the model may call.
            opened: end it where the assistant starts to write.

        Raises:
            UsageError: the template refuses the conversation.
        """
        from jinja2.exceptions import TemplateError

        try:
            return self._template.render(
                messages=[message.model_dump() for message in messages],
                tools=[tool.openai() for tool in tools] or None,
                add_generation_prompt=opened,
                **self._variables,
            )
        except TemplateError as error:
            raise UsageError(f"the chat template refuses the conversation: {error}") from error

    def reply(self, messages: Sequence[Message]) -> str:
        """The text behind the token that ended the assistant's turn: ``messages``, and the opening of the next turn.

        Raises:
            UsageError: the template does not end a turn with the tokenizer's end-of-turn token, or it writes the end
                of a turn differently once something follows.
        """
        following = self._behind(self.render([*_SPOKEN, *messages]))
        if not following.startswith(self._closing):
            raise UsageError(
                "the chat template writes the end of an assistant's turn in two ways: "
                f"{self._eos + self._closing!r} at the end, {(self._eos + following)[:40]!r} before a further message"
            )
        return following

    @cached_property
    def _closing(self) -> str:
        """What the template writes behind the end-of-turn token when nothing follows: a newline, usually."""
        return self._behind(self.render(_SPOKEN, opened=False))

    def _behind(self, text: str) -> str:
        _, found, rest = text.rpartition(MARK + self._eos)
        if not found:
            end = text.partition(MARK)[2][:20]
            raise UsageError(
                f"the chat template ends an assistant's turn with {end!r}, but eos_token is {self._eos!r}; "
                "set eos_token in tokenizer_config.json to the token that ends a turn"
            )
        return rest


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """Jinja's own filter escapes ``<`` and ``'`` for web pages, and no model was trained on that."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
