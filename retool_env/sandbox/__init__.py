"""Run untrusted Python programs and say truthfully how they ended.

The contract is in ``base``. Backends are opened by name, ``open_sandbox("fork")``, and imported only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retool_env.sandbox.base import Cancel, Fault, Limits, Mode, RunResult, RunStatus, Sandbox, Session
from retool_env.sandbox.registry import open_sandbox, release, shared_sandbox

if TYPE_CHECKING:
    from retool_env.sandbox.local import LocalSandbox

__all__ = [
    "Cancel",
    "Fault",
    "Limits",
    "LocalSandbox",
    "Mode",
    "RunResult",
    "RunStatus",
    "Sandbox",
    "Session",
    "open_sandbox",
    "release",
    "shared_sandbox",
]


def __getattr__(name: str) -> Any:
    if name == "LocalSandbox":
        from retool_env.sandbox.local import LocalSandbox

        return LocalSandbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
