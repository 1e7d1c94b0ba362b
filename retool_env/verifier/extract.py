"""Find the one answer that a response commits to.

Purpose: turn a response (text, or a list of messages) into the string that stands in its last answer marker.
Contract: pure, never raises for any text, and linear in its length: every scan is a literal search or looks at a
bounded stretch. The marker that *ends last* wins, so that listing candidates gains nothing; a box inside an
``<answer>`` element or an ``Answer:`` line is that marker's answer. A missing answer has a ``reason``:

* ``no_marker``: nothing in the final segment is marked as an answer;
* ``unclosed_box``: the last box never closes, so the response was cut in the middle of it;
* ``unclosed_think``: the reasoning never ended;
* ``empty_answer``: the marker holds nothing;
* ``template``: the marker holds the prompt's placeholder;
* ``retracted``: the same or the next sentence says that this is not the answer;
* ``no_final_message``: the last message is not a text of the assistant.

Left out: what the answer means (:mod:`.latex`), and guessing an answer from unmarked text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from retool_env.verifier.backwards import matches_from_end
from retool_env.verifier.retraction import retracted
from retool_env.verifier.segment import final_segment

__all__ = ["Extracted", "extract_answer"]

_MAX_REMEMBERED = 64
_MAX_BOXES = 32
_MAX_BOX_CHARS = 4000
_MAX_JOIN_CHARS = 60

_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"[ \t]+([^\s${}\\]{1,40})")
_JOIN = re.compile(
    r"(?:\s|[,;$|&/]|\\(?:quad|qquad|[,; ()\[\]\\]|(?:lor|land|vee|wedge|mid|newline|hspace\{\w*\})(?![A-Za-z]))"
    r"|\\text\s*\{\s*(?:and|or)\s*\}|and\b|or\b|\(?[A-Za-z0-9]\)|\n[ \t]*[-*\u2022])*"
)
_MAX_ANSWER_WORDS = 1000
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE | re.ASCII)
_SPELLINGS = ("answer", "Answer", "ANSWER")
_ANSWER_WORD = re.compile(rf"(?:{'|'.join(_SPELLINGS)})[ \t*_]{{0,8}}[:\uff1a]")
_MARKUP = " \t\r*_$`"
_LEADS = frozenset({"", "the", "final", "thefinal", "my", "myfinal"})
_MAX_LEAD_CHARS = 40
_PLACEHOLDERS = frozenset({"answer", "youranswer", "finalanswer", "yourfinalanswer", "thefinalanswergoeshere"})


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """The outcome of the search.

    Attributes:
        answer: the marked text, without outer quotes; ``""`` when there is none.
        marker: ``boxed``, ``answer_tag``, ``answer_line``, or ``""`` when no marker was found.
        reason: why ``answer`` is empty; ``""`` when it is not.
    """

    answer: str = ""
    marker: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """A marker in the text: where it stands, and its content (None when it never closes)."""

    start: int
    end: int
    content: str | None
    marker: str


def extract_answer(response: str | Sequence[Mapping[str, object]]) -> Extracted:
    r"""The answer of a text, or of the last message when that is a text of the assistant.

    >>> extract_answer(r"First \boxed{41}, no: \boxed{42}.").answer
    '42'
    >>> extract_answer([{"role": "tool", "content": r"\boxed{42}"}]).reason
    'no_final_message'
    """
    if isinstance(response, str):
        return _from_text(response)
    last = response[-1] if response else {}
    content = last.get("content")
    if last.get("role") != "assistant" or not isinstance(content, str):
        return Extracted(reason="no_final_message")
    return _from_text(content)


@lru_cache(maxsize=_MAX_REMEMBERED)
def _from_text(text: str) -> Extracted:
    """Remembered, because a dialect asks whether there is an answer right before the verifier asks which."""
    segment = final_segment(text)
    if segment is None:
        return Extracted(reason="unclosed_think")
    marks = [mark for mark in (_last_line(segment), _last_box(segment), _last_tag(segment)) if mark]
    if not marks:
        return Extracted(reason="no_marker")
    last = max(marks, key=lambda mark: mark.end)
    if retracted(segment, last.start, last.end):
        return Extracted(marker=last.marker, reason="retracted")
    content = last.content if last.marker == "boxed" else _inner(last.content or "")
    if content is None:
        return Extracted(marker=last.marker, reason="unclosed_box")
    answer = _tidy(content)
    if not answer:
        return Extracted(marker=last.marker, reason="empty_answer")
    if _is_placeholder(answer):
        return Extracted(marker=last.marker, reason="template")
    return Extracted(answer=answer, marker=last.marker)


def _inner(content: str) -> str | None:
    """The content of a tag or line: its own last box or ``Answer:`` line if it has one."""
    mark = _last_box(content) or _last_line(content)
    return content if mark is None else mark.content


def _tidy(content: str) -> str:
    answer = content.strip().removesuffix("(without quotes)").strip()
    while len(answer) >= 2 and answer[0] in "'\"`" and answer[0] == answer[-1]:
        answer = answer[1:-1].strip()
    return answer


def _is_placeholder(answer: str) -> bool:
    lowered = answer.casefold()
    letters = "".join(char for char in lowered.replace("\\text", "") if char.isalpha())
    return lowered.startswith("$answer") or letters in _PLACEHOLDERS


def _last_box(text: str) -> _Mark | None:
    """The last outermost box, merged with the boxes that only separators and "and"/"or" join to it."""
    boxes = _outermost(_boxes(text))
    if not boxes:
        return None
    last = boxes[-1]
    if last.content is None:
        return last
    start, contents = last.start, [last.content]
    for box in reversed(boxes[:-1]):
        if box.content is None or not _joined(text[box.end : start]):
            break
        start = box.start
        contents.append(box.content)
    # A repeated box is the same answer said twice, not a list of two.
    distinct = list(dict.fromkeys(content.strip() for content in reversed(contents)))
    return _Mark(start=start, end=last.end, content=", ".join(distinct), marker="boxed")


def _joined(gap: str) -> bool:
    if len(gap) > _MAX_JOIN_CHARS or "\n\n" in gap or (not gap.strip() and "\n" in gap):
        return False
    return _JOIN.fullmatch(gap) is not None


def _boxes(text: str) -> Iterator[_Mark]:
    """The last boxes of the text, nested ones included, in order of their starts."""
    starts = [(at, name) for name in ("\\boxed", "\\fbox") for at in _last_occurrences(text, name)]
    for start, name in sorted(starts)[-_MAX_BOXES:]:
        yield _box_at(text, start, start + len(name))


def _last_occurrences(text: str, needle: str) -> Iterator[int]:
    end = len(text)
    for _ in range(_MAX_BOXES):
        end = text.rfind(needle, 0, end)
        if end < 0:
            return
        yield end


def _box_at(text: str, start: int, after: int) -> _Mark:
    bare = _BARE_BOX.match(text, after)
    if bare:
        return _Mark(start=start, end=bare.end(), content=bare[1], marker="boxed")
    brace = after + len(text[after : after + 8]) - len(text[after : after + 8].lstrip())
    close = _closing_brace(text, brace) if text.startswith("{", brace) else -1
    if close < 0:
        return _Mark(start=start, end=after, content=None, marker="boxed")
    return _Mark(start=start, end=close + 1, content=text[brace + 1 : close], marker="boxed")


def _closing_brace(text: str, opening: int) -> int:
    depth = 0
    for match in _BRACES.finditer(text, opening, opening + _MAX_BOX_CHARS):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return -1


def _outermost(boxes: Iterator[_Mark]) -> list[_Mark]:
    kept: list[_Mark] = []
    for box in boxes:
        if not kept or box.start >= kept[-1].end:
            kept.append(box)
    return kept


def _last_tag(text: str) -> _Mark | None:
    """The last closed ``<answer>`` element."""
    closing: re.Match[str] | None = None
    for tag in matches_from_end(_ANSWER_TAG, text):
        if tag[1]:
            closing = tag
        elif closing:
            content = text[tag.end() : closing.start()]
            return _Mark(start=tag.start(), end=closing.end(), content=content, marker="answer_tag")
    return None


def _last_line(text: str) -> _Mark | None:
    """The last ``Answer:`` and its value, which may stand on the next line."""
    if not any(spelling in text for spelling in _SPELLINGS):
        return None
    words = itertools.islice(matches_from_end(_ANSWER_WORD, text), _MAX_ANSWER_WORDS)
    word = next((word for word in words if _announces(text, word)), None)
    if word is None:
        return None
    start = end = word.end()
    for _ in range(4):
        end = _line_end(text, start)
        if text[start:end].strip(_MARKUP) not in ("", "\\[", "\\(") or end == len(text):
            break
        start = end + 1
    return _Mark(start=word.start(), end=end, content=text[start:end].strip(" \t\r*_"), marker="answer_line")


def _announces(text: str, word: re.Match[str]) -> bool:
    """Not a part of another word, not the quoted instruction, and not the lower-case end of a sentence about it."""
    lead = text[max(0, word.start() - _MAX_LEAD_CHARS) : word.start()].rpartition("\n")[2]
    if lead[-1:].isalpha() or lead[-1:] in ("'", '"', "`"):
        return False
    return word[0][0] == "A" or "".join(filter(str.isalpha, lead)).casefold() in _LEADS


def _line_end(text: str, start: int) -> int:
    ends = (text.find("\n", start), text.find("</", start, start + _MAX_BOX_CHARS))
    return min((end for end in ends if end >= 0), default=len(text))
