"""Many checks at a time: a batch, or tasks of an event loop.

Purpose: keep all workers of the pool busy, and never block an event loop.
Contract: the verdicts are those of serial calls (``elapsed`` aside), in the same order. The threads are made on first
use, and anew in a forked child. A task that is cancelled leaves its check running to the end of its time limit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from retool_env.errors import UsageError
from retool_env.verifier.judge import Response, Verifier, verify
from retool_env.verifier.verdict import Verdict

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["verify_async", "verify_batch"]

# Threads that wait for a worker cost little; with few of them, quick checks would stand behind slow ones.
_THREADS = 32


def verify_batch(
    responses: Sequence[Response], golds: Sequence[str | Sequence[str]], *, verifier: Verifier = verify
) -> list[Verdict]:
    """Judge each response against its gold.

    Args:
        responses: texts or conversations.
        golds: as many right answers.
        verifier: who judges; ours, or one of :mod:`retool_env.verifier.others`.

    Raises:
        UsageError: not as many golds as responses.
    """
    if len(responses) != len(golds):
        raise UsageError(f"{len(responses)} responses but {len(golds)} golds; give one gold for each response")
    return list(_executor().map(verifier, responses, golds))


async def verify_async(response: Response, gold: str | Sequence[str]) -> Verdict:
    """Judge a response without blocking the event loop."""
    import asyncio  # whoever awaits this has imported it already; nobody else should pay for it

    return await asyncio.get_running_loop().run_in_executor(_executor(), verify, response, gold)


@lru_cache(maxsize=1)
def _executor() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_THREADS, thread_name_prefix="retool-verify")


os.register_at_fork(after_in_child=_executor.cache_clear)
