"""Data inside HTML: JSON, deflated, in base64, in script elements that no browser runs.

Base64 has no character that could end the element, whatever the data. The other side is ``assets/store.js``.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator

from agents.report.markup import Markup, tag

__all__ = ["CHUNK_BYTES", "block", "chunked"]

CHUNK_BYTES = 1 << 19  # of JSON; decodes in a few milliseconds


def block(name: str, data: bytes) -> Markup:
    """A block that the page finds by its name."""
    packed = base64.b64encode(zlib.compress(data, 6)).decode("ascii")
    return tag("script", Markup(packed), type="text/plain", id=name)


def chunked(rows: Iterable[bytes], *, limit: int = CHUNK_BYTES) -> Iterator[tuple[int, bytes]]:
    """JSON lists of as many rows as fit into ``limit`` bytes, and of one where it does not; with their lengths."""
    pending: list[bytes] = []
    size = 0
    for row in rows:
        if pending and size + len(row) > limit:
            yield len(pending), _list(pending)
            pending, size = [], 0
        pending.append(row)
        size += len(row)
    if pending:
        yield len(pending), _list(pending)


def _list(rows: list[bytes]) -> bytes:
    return b"[" + b",\n".join(rows) + b"]"
