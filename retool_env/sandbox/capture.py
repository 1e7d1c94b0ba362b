"""Keep a bounded part of what a program writes, the same part every time.

A stream longer than ``limit`` bytes is shown as its first half-limit and its last half-limit with a marker line in
between. Up to :data:`STOP_FACTOR` times the limit the program may go on and its tail is the real end of its output;
beyond that it is to be stopped, and everything from there on is ignored, so that the text does not depend on how
much a doomed program wrote before the kill reached it.

Left out: reading from descriptors (``exchange``) and cutting by tokens, which is the business of the rollout.
"""

from __future__ import annotations

import codecs
from typing import Final

__all__ = ["STOP_FACTOR", "Capture"]

STOP_FACTOR: Final = 4


def _decode_head(data: bytes) -> str:
    """Decode, leaving out a character that the cut has split."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def _decode_tail(data: bytes) -> str:
    """Decode, leaving out the rest of a character that the cut has split."""
    start = 0
    while start < min(3, len(data)) and data[start] & 0xC0 == 0x80:
        start += 1
    return data[start:].decode("utf-8", "replace")


class Capture:
    """What one stream delivered. Not thread-safe: it belongs to the thread that reads the stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._total = 0

    @property
    def overflowed(self) -> bool:
        """The program wrote so much that it must be stopped."""
        return self._total > STOP_FACTOR * self._limit

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._total += len(data)
        self._data += data[: STOP_FACTOR * self._limit - len(self._data)]

    def text(self) -> str:
        """The stream as text; bad bytes are replaced and the rest kept."""
        cut = len(self._data) - self._limit
        if cut <= 0:
            return self._data.decode("utf-8", "replace")
        head = _decode_head(bytes(self._data[: self._limit // 2]))
        tail = _decode_tail(bytes(self._data[self._limit // 2 + cut :]))
        return f"{head}\n[... {cut} bytes cut ...]\n{tail}"
