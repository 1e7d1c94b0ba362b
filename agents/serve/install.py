"""An environment for SGLang alone, as ``python -m venv`` and pip make it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from agents.serve.interpreter import Installation, find_installation
from retool_env.errors import InfrastructureError, UsageError

__all__ = ["PIN", "install"]

PIN: Final = "sglang==0.5.23"


def install(folder: Path, requirement: str = PIN) -> Installation:
    """Make ``folder`` an environment with ``requirement``; pip's own output goes to the terminal.

    Done again, it only looks whether all is there; broken off, it goes on with what pip has in its cache. Raises
    :class:`UsageError` for a folder that holds something else and :class:`InfrastructureError` when pip fails.
    """
    python = folder / "bin" / "python"
    if folder.exists() and not (folder / "pyvenv.cfg").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--install {str(folder)!r} holds something else; name a new folder")
    _run([sys.executable, "-m", "venv", str(folder)], "cannot make an environment")
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", requirement], f"pip: {requirement}")
    return find_installation(str(python))


def _run(command: list[str], what: str) -> None:
    code = subprocess.run(command, check=False).returncode
    if code:
        raise InfrastructureError(f"{what}: failed with code {code}; the reason is above, and a second try goes on")
