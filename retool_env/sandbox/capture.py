"""Keep a bounded part of what a program writes, the same part every time.

A stream longer than ``keep`` bytes is shown as its first half and its last half of that with a marker line in between.
Up to ``stop`` bytes the program may go on and its tail is the real end of its output; beyond that it is to be stopped,
and everything from there on is ignored, so that the text does not depend on how much a doomed program wrote before
the kill reached it.

Left out: reading from descriptors (``exchange``) and cutting by tokens, which is the business of the rollout.
"""

from __future__ import annotations

import codecs

__all__ = ["Capture"]


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

    def __init__(self, *, keep: int, stop: int) -> None:
        self._keep = keep
        self._stop = max(keep, stop)
        self._data = bytearray()
        self._total = 0
        self._dropped = 0

    @property
    def overflowed(self) -> bool:
        """The program wrote so much that it must be stopped."""
        return self._total > self._stop

    @property
    def cut(self) -> int:
        """Bytes left out of :meth:`text`."""
        return max(0, len(self._data) + self._dropped - self._keep)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._data += data[: max(0, self._stop - self._total)]
        self._total += len(data)
        half = self._keep // 2
        # Now and then, so that a long stream costs its length and not its square.
        if len(self._data) > 4 * self._keep:
            excess = len(self._data) - self._keep
            del self._data[half : half + excess]
            self._dropped += excess

    def text(self) -> str:
        """The stream as text; bad bytes are replaced and the rest kept."""
        cut = self.cut
        if not cut:
            return self._data.decode("utf-8", "replace")
        half = self._keep // 2
        head = _decode_head(bytes(self._data[:half]))
        tail = _decode_tail(bytes(self._data[len(self._data) - (self._keep - half) :]))
        return f"{head}\n[... {cut} bytes cut ...]\n{tail}"
