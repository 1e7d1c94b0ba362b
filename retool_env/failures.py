"""What libraries raise when a machine is too small or a network too slow, in one line with what to do.

They are recognised by the names of their types and by their words, so that nothing is imported to recognise them.
Contract: :func:`explain_failure` knows what it knows and returns ``None`` for everything else, whose traceback then
says more than any guess.
"""

from __future__ import annotations

import errno
import re
from typing import Final

__all__ = ["explain_failure"]

_RESUME: Final = "what was finished is kept; `resume=true` goes on from the last checkpoint"
_MEMORY: Final = (
    "lower algo.micro_batch_tokens or env.max_context_tokens (sft: micro_batch_tokens), set "
    "model.gradient_checkpointing=true, model.parallel.offload=true or model.lora='{r: 16}'; a server on the same GPU "
    "takes its share (--mem-fraction-static); `retool plan` with the same settings reckons what fits"
)
_HOST_MEMORY: Final = "lower rollout.num_slots, num_slots, algo.micro_batch_tokens or env.max_context_tokens"
_RANKS: Final = (
    "is every rank still alive (its own output says why it ended), do the machines reach each other at the address of "
    "--rdzv-endpoint, and is it the interface of that network (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME)? "
    "NCCL_DEBUG=INFO says more"
)
_RANK_WORDS: Final = re.compile(
    r"NCCL error|ncclRemoteError|ncclSystemError|[Cc]onnection closed by peer|Timed out waiting|Watchdog caught|"
    r"[Tt]imed out after \d+|Connection reset by peer|wait timeout after",
)


def explain_failure(error: BaseException) -> str | None:
    """One line for a failure of a known kind.

    >>> explain_failure(OSError(28, "No space left on device", "runs/grpo/metrics.jsonl"))[:60]
    'the disk is full (runs/grpo/metrics.jsonl); free some, or ke'
    >>> explain_failure(KeyError("x")) is None
    True
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"the disk is full{where}; free some, or keep fewer checkpoints (keep_last=2); {_RESUME}"
    if type(error).__name__ == "OutOfMemoryError":
        return f"out of GPU memory: {_first_sentence(text)} {_RESUME}. To need less: {_MEMORY}"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return f"out of memory: {_first_sentence(text) or 'the interpreter got no more.'} {_HOST_MEMORY}; {_RESUME}"
    if _is_of_ranks(error) and _RANK_WORDS.search(text):
        return f"the ranks lost each other: {_first_sentence(text)} {_RESUME}. {_RANKS}"
    return None


def _is_of_ranks(error: BaseException) -> bool:
    """torch.distributed's own types, and the plain RuntimeError that gloo raises."""
    return type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError") or (
        type(error) is RuntimeError and "gloo" in str(error)
    )


def _first_sentence(text: str) -> str:
    """Up to the first full stop, or 200 characters."""
    sentence = re.split(r"(?<=[^.\d])\. ", f"{text} ", maxsplit=1)[0].strip().removesuffix(".")
    return f"{sentence[:200]}." if sentence else ""
