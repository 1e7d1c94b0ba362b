"""Sandboxes by name, because names can be written in a configuration and sent to another process.

``fork`` is the local one; ``fusion`` is a SandboxFusion server, ``fusion:http://host:8080`` the one at that address.
:func:`open_sandbox` makes a new one that the caller closes.
:func:`shared_sandbox` hands out one per name and process and counts its users; the last :func:`release` closes it.
Nothing is imported or started before it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from retool_env.errors import UsageError, did_you_mean
from retool_env.sandbox.base import Sandbox

__all__ = ["check_name", "open_sandbox", "release", "shared_sandbox"]


def _open_fork(_: str) -> Sandbox:
    from retool_env.sandbox.local import LocalSandbox

    return LocalSandbox()


def _open_fusion(address: str) -> Sandbox:
    from retool_env.sandbox.fusion.client import FusionSandbox

    return FusionSandbox(address or None)


_OPENERS: Final[dict[str, Callable[[str], Sandbox]]] = {
    "fork": _open_fork,
    "fusion": _open_fusion,
}
_WITH_ADDRESS: Final = frozenset({"fusion"})

_lock = threading.Lock()
_shared: dict[str, Sandbox] = {}
_users: dict[str, int] = {}


def _opener(name: str) -> tuple[Callable[[str], Sandbox], str]:
    kind, colon, address = name.partition(":")
    if kind not in _OPENERS:
        raise UsageError(f"unknown sandbox {name!r}{did_you_mean(kind, _OPENERS)}")
    if colon and kind not in _WITH_ADDRESS:
        raise UsageError(f"sandbox {name!r}: {kind!r} takes no address; only fusion:URL does")
    return _OPENERS[kind], address


def check_name(name: str) -> str:
    """``name`` itself, without opening anything. Raises :class:`UsageError` when no sandbox is called that."""
    _opener(name)
    return name


def open_sandbox(name: str = "fork") -> Sandbox:
    """A new sandbox; the caller closes it. Raises :class:`UsageError` for an unknown name or a bad address."""
    opener, address = _opener(name)
    return opener(address)


def shared_sandbox(name: str = "fork") -> Sandbox:
    """This process's sandbox of that name, one more user of it. Give it back with :func:`release`."""
    with _lock:
        if name not in _shared:
            _shared[name] = open_sandbox(name)
        _users[name] = _users.get(name, 0) + 1
        return _shared[name]


def release(name: str = "fork") -> None:
    """One user fewer; the last one closes it."""
    with _lock:
        assert _users.get(name, 0) > 0, f"sandbox {name!r} was released more often than it was taken"
        _users[name] -= 1
        last = _shared.pop(name) if _users[name] == 0 else None
    if last is not None:
        last.close()
