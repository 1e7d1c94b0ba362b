r"""The JSON of a tool call as models really write it.

Two slips are mended, always in this order, because both leave no doubt about what was meant:

1. A backslash that JSON does not know is doubled: ``"\(x"``, ``"\alpha"``. So are ``\b`` and ``\f`` before a letter:
   JSON reads ``"\frac"`` as a form feed and ``rac``, and nobody writes form feeds. ``\n``, ``\r`` and ``\t`` stay what
   JSON says, because programs are full of them: ``"\times"`` with one backslash is a tab and ``imes``.
2. Raw newlines, tabs and other control characters inside of a string are taken as they are.

Two things are read without changing a character: text behind a complete object when the closing tag was forgotten, and
``arguments`` that are JSON once more inside of a string. Everything else is told to the model. Nothing is ever
evaluated; half a surrogate pair becomes U+FFFD, because no file and no tokenizer can take it. What is read can be
written again by whatever walks through it: no number is infinite, and nothing lies deeper than 64 brackets.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn, cast

from pydantic import JsonValue

__all__ = ["BadJsonError", "decode_at", "decode_whole", "encode", "without_halves"]

_ESCAPE: Final = re.compile(
    r"\\(?:"
    r"(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|(?P<known>[\"\\/nrt]|[bf](?![A-Za-z])|u[0-9a-fA-F]{4})"
    r"|)"
)
_PAIR: Final = re.compile(r"\\(.)")
_MOST_DEPTH: Final = 64


class BadJsonError(ValueError):
    """It is no JSON; the message says what is wrong and where, in one line."""


def _refuse(constant: str) -> NoReturn:
    raise BadJsonError(f"{constant} is no JSON")


def _finite(written: str) -> float:
    """JSON sets no bound to a number: ``1e999`` is one, and infinity for a float."""
    if math.isinf(number := float(written)):
        raise BadJsonError(f"{written[:20]} is too large a number")
    return number


_DECODER: Final = json.JSONDecoder(strict=False, parse_constant=_refuse, parse_float=_finite)


def decode_at(text: str) -> tuple[JsonValue, str]:
    """The JSON value that ``text`` starts with, and the text behind it.

    Raises:
        BadJsonError: it starts with none.
    """
    mended = _ESCAPE.sub(_mend, text.lstrip())
    try:
        value, end = _DECODER.raw_decode(mended)
    except json.JSONDecodeError as error:
        near = mended[max(error.pos - 10, 0) : error.pos + 10]
        raise BadJsonError(f"{error.msg} at line {error.lineno}, column {error.colno}, near {near!r}") from error
    except BadJsonError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise BadJsonError("it is too big or too deep") from error
    if _deeper(value, _MOST_DEPTH):
        raise BadJsonError(f"it is deeper than {_MOST_DEPTH} brackets")
    return cast("JsonValue", value), mended[end:]


def decode_whole(text: str) -> JsonValue:
    r"""The one JSON value in ``text``.

    >>> decode_whole(r'{"name": "f", "arguments": {"latex": "\frac{1}{2} \(x\)"}}')
    {'name': 'f', 'arguments': {'latex': '\\frac{1}{2} \\(x\\)'}}

    Raises:
        BadJsonError: there is none, or something behind it.
    """
    value, rest = decode_at(text)
    if rest.strip():
        raise BadJsonError(f"something stands behind the object: {rest.strip()[:20]!r}")
    return value


def encode(value: JsonValue) -> str:
    """JSON as templates write it, and as ``decode_whole`` reads it back: no short form of what would be mended."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _PAIR.sub(lambda match: {"b": r"\u0008", "f": r"\u000c"}.get(match[1], match[0]), text)


def _deeper(value: object, levels: int) -> bool:
    """Whether ``value`` has more than so many levels of objects and arrays."""
    if not isinstance(value, (dict, list)):
        return False
    return levels == 0 or any(
        _deeper(one, levels - 1) for one in (value.values() if isinstance(value, dict) else value)
    )


def without_halves(text: str) -> str:
    r"""JSON without the halves of surrogate pairs, and otherwise as it is.

    >>> without_halves(r'"\ud83d\ude00 \ud800 \\ud800"')
    '"\\ud83d\\ude00 \\ufffd \\\\ud800"'
    """
    return _ESCAPE.sub(lambda match: r"\ufffd" if match["half"] else match[0], text)


def _mend(match: re.Match[str]) -> str:
    if match["half"]:
        return r"\ufffd"
    return match[0] if match["pair"] or match["known"] else r"\\"
