"""Every random stream of an episode is a pure function of the run's seed and the ticket.

``derive(seed, "sampling", 17)`` is a 63-bit number from a cryptographic hash, so neighbouring tickets and
differently named streams share nothing, on every platform and in every process.
"""

from __future__ import annotations

import hashlib

__all__ = ["derive"]


def derive(seed: int, stream: str, *path: int) -> int:
    """A seed in ``[0, 2**63)`` for the stream called ``stream`` at ``path``.

    >>> derive(0, "sandbox", 4711) == derive(0, "sandbox", 4711) != derive(0, "sampling", 4711)
    True
    """
    text = "/".join((str(int(seed)), stream, *(str(int(part)) for part in path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
