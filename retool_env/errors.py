"""Every exception a caller may want to catch, and the one policy behind them.

1. A mistake of the user (a missing file, a wrong column, a prompt that does not fit) raises a
   :class:`UsageError`: a ``ValueError`` whose message is one line that names the bad value, what was expected
   and what to do. The command line prints that line and exits with code 2, without a traceback.
2. A failure of something outside (sandbox gone, engine unreachable) is *not* raised through ``env.step``: it
   becomes a typed outcome of the episode. :class:`SandboxError` and :class:`EngineError` exist for the layers
   below, which have no episode to attach an outcome to. When too many episodes of a step end that way, the run stops
   with :class:`InfrastructureError` (exit code 3): training on what is left would look normal and mean nothing.
3. A mistake of ours is an ``assert``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["EngineError", "InfrastructureError", "MissingExtraError", "SandboxError", "UsageError", "did_you_mean"]


class UsageError(ValueError):
    """The user can fix this; the message says how, in one line."""


class MissingExtraError(UsageError):
    """A feature needs an optional dependency group that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the [{extra}] extra: pip install 'retool-env[{extra}]'")


class SandboxError(RuntimeError):
    """The sandbox itself failed; nothing is known about the program that should have run."""


class EngineError(RuntimeError):
    """The generation engine failed or was stopped; no tokens were sampled."""


class InfrastructureError(RuntimeError):
    """Too many episodes failed through no fault of the policy; the run was stopped, what was computed is kept."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest known name, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
