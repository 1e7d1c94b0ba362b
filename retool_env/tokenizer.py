"""Text to ids and back, for prompts and tool results only.

Sampled ids are never re-encoded, so a tokenizer here needs just two properties: ``decode`` shows what a model wrote,
and ``encode`` of a new piece of text (a prompt, a tool result) gives ids that can be appended. ``encode`` honours the
control tokens of the vocabulary (``<code>``, ``<|im_end|>``); text that comes from a program must be passed through
``escape`` first, so that printing a control token's name does not forge one. Conversations go through the model's own
chat template (``chat``); a tokenizer without one puts each content on a line of its own.

:class:`ByteTokenizer` is bundled and needs nothing. :class:`FileTokenizer` reads a Hugging Face folder
(``tokenizer.json`` with ``tokenizer_config.json``) through the ``tokenizers`` library; it does not handle slow
(pure Python) tokenizers.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from retool_env.chat import ChatTemplate, plain_chat, plain_reply
from retool_env.errors import MissingExtraError, UsageError
from retool_env.problems import Message
from retool_env.tools.spec import ToolSpec

__all__ = ["ByteTokenizer", "FileTokenizer", "Tokenizer", "load_tokenizer"]

_TAG = re.compile(r"<.+>|\[[^\]\s]+\]", re.DOTALL)


class Tokenizer(Protocol):
    """What an episode needs of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_id(self) -> int:
        """The id that ends a turn."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` alone: nothing is added in front or behind."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``, control tokens included; incomplete UTF-8 becomes U+FFFD."""
        ...

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Ids of a conversation, with the tools it offers, up to the point where the assistant starts to write."""
        ...

    def reply(self, messages: Sequence[Message]) -> str:
        """The text that follows ``eos_id``: ``messages``, up to where the assistant starts to write again.

        Raises:
            UsageError: the chat template and the end-of-turn token do not fit together.
        """
        ...

    def escape(self, text: str) -> str:
        """``text`` changed so that ``encode`` finds no control token in it."""
        ...


def _escaper(specials: Sequence[str]) -> re.Pattern[str] | None:
    """Finds the tokens that no program may forge."""
    return re.compile("|".join(re.escape(s) for s in sorted(specials, key=len, reverse=True))) if specials else None


_PIECES: Final = (*(bytes([value]) for value in range(256)), b"<eos>")


class ByteTokenizer:
    """One id per UTF-8 byte, and ``<eos>`` as id 256: for endpoints and tests that have no tokenizer.

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("42<eos>"), tokenizer.decode([52, 50, 256])
    ([52, 50, 256], '42<eos>')
    >>> tokenizer.encode(tokenizer.escape("<eos>"))[-1] == tokenizer.eos_id
    False
    """

    vocab_size = 257
    eos_id = 256

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for k, piece in enumerate(text.split("<eos>")):
            ids += ([self.eos_id] if k else []) + list(piece.encode())
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(map(_PIECES.__getitem__, ids)).decode(errors="replace")

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        return self.encode(plain_chat(messages, tools))

    def reply(self, messages: Sequence[Message]) -> str:
        return plain_reply(messages)

    def escape(self, text: str) -> str:
        return text.replace("<eos>", "< eos>")


class FileTokenizer:
    """A Hugging Face fast tokenizer folder.

    Args:
        folder: holds ``tokenizer.json`` and, for ``eos_token`` and the chat template, ``tokenizer_config.json`` or
            ``chat_template.jinja``.

    Raises:
        UsageError: the folder or the end-of-turn token is missing.
        MissingExtraError: the ``[tokens]`` extra is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        path = self._folder / "tokenizer.json"
        if not path.is_file():
            raise UsageError(f"tokenizer={str(folder)!r}: no tokenizer.json there; give a model folder or 'bytes'")
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError as error:
            raise MissingExtraError("reading a tokenizer.json", "tokens") from error
        self._backend = Backend.from_file(str(path))
        self._config = self._read_config()
        added = self._backend.get_added_tokens_decoder().values()
        # Qwen3 has <think> and <tool_call> as tokens that are not "special"; runs of blanks are such tokens elsewhere.
        self._escaper = _escaper([t.content for t in added if t.special or _TAG.fullmatch(t.content)])
        self.vocab_size = int(self._backend.get_vocab_size())
        self.eos_id = self._find_eos()

    def _read_config(self) -> dict[str, Any]:
        path = self._folder / "tokenizer_config.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _find_eos(self) -> int:
        name = self._special("eos_token") or "<eos>"
        eos = self._backend.token_to_id(name)
        if eos is None:
            raise UsageError(
                f"{self._folder}: eos_token {name!r} is not in the vocabulary; set it in tokenizer_config.json"
            )
        return int(eos)

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The folder's template; ``None`` when it has none. Of several, the one called ``default``."""
        path = self._folder / "chat_template.jinja"
        source = path.read_text(encoding="utf-8") if path.is_file() else self._config.get("chat_template")
        if isinstance(source, list):
            source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
        if source is None:
            return None
        variables = {name: text for name in ("bos_token", "pad_token", "unk_token") if (text := self._special(name))}
        return ChatTemplate(source, eos=self.decode([self.eos_id]), variables=variables)

    def _special(self, name: str) -> str | None:
        token = self._config.get(name)
        return token["content"] if isinstance(token, dict) else token

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._backend.decode(list(ids), skip_special_tokens=False))

    def escape(self, text: str) -> str:
        return text if self._escaper is None else self._escaper.sub(lambda m: f"{m[0][:1]} {m[0][1:]}", text)

    def encode_chat(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        template = self.chat_template
        return self.encode(template.render(messages, tools) if template else plain_chat(messages, tools))

    def reply(self, messages: Sequence[Message]) -> str:
        return self.chat_template.reply(messages) if self.chat_template else plain_reply(messages)


@functools.lru_cache(maxsize=16)
def load_tokenizer(name: str) -> Tokenizer:
    """``"bytes"`` or a folder with a ``tokenizer.json``; the same object for the same name."""
    return ByteTokenizer() if name == "bytes" else FileTokenizer(name)
