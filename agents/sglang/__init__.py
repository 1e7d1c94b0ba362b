"""SGLang as rollout engine: a client of servers that somebody else starts (``docs/sglang.md``)."""

from __future__ import annotations

from agents.sglang.agent import SGLangAgent
from agents.sglang.server import OutageError, RefusedError, SGLangServer

__all__ = ["OutageError", "RefusedError", "SGLangAgent", "SGLangServer"]
