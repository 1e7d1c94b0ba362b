"""What the sandbox tests share: the processes of a sandbox as the host sees them."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retool_env.sandbox.box.scratch import remove_tree


@functools.cache
def best_tier() -> str:
    """The tier that this host and user get."""
    from retool_env.sandbox import LocalSandbox

    with LocalSandbox(image="light", unsafe=True, spares=0) as sandbox:
        return sandbox.health().tier


def skip_without_namespaces() -> None:
    """For tests that count the processes of a boxed sandbox."""
    if not best_tier().startswith("T1"):
        pytest.skip(f"this host allows only tier {best_tier()}: `retool sandbox doctor` says why")


def family(folder: Path) -> dict[int, int]:
    """Every living process of sandboxes whose directory is below ``folder``, with its parent.

    Found by the zygote's command line, which its forks share and no program may change.
    """
    mark = f"{folder}/".encode()
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            line = (entry / "cmdline").read_bytes()
            if b"zygote.main(" in line and mark in line:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(entry.name)] = int(parent)
    return found


def zygotes(folder: Path) -> list[int]:
    """The zygotes, which are the children of the stubs that stay outside of their namespaces."""
    processes = family(folder)
    stubs = [pid for pid, parent in processes.items() if parent not in processes]
    return [pid for pid, parent in processes.items() if parent in stubs]


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Not pytest's ``tmp_path``, which other users may not enter: programs may have a user id of their own."""
    folder = Path(tempfile.mkdtemp(prefix="test-sandbox-"))
    folder.chmod(0o755)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        remove_tree(folder)
