"""Which Python runs SGLang. It pins a torch of its own, so it usually lives in an environment of its own.

In this order: the path given, the variable ``RETOOL_SGLANG_PYTHON``, this interpreter if SGLang is installed beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from retool_env.errors import UsageError

__all__ = ["VARIABLE", "Installation", "find_installation"]

VARIABLE: Final = "RETOOL_SGLANG_PYTHON"
_ASK: Final = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


@dataclass(frozen=True, kw_only=True)
class Installation:
    """An interpreter that has SGLang.

    Attributes:
        python: its path.
        version: of SGLang.
    """

    python: Path
    version: str

    def version_of(self, distribution: str) -> str | None:
        """Version of another distribution beside it, or ``None``."""
        return _ask(self.python, distribution)


def find_installation(given: str | None = None) -> Installation:
    """The interpreter to use. Raises :class:`UsageError` when there is none, or when it has no SGLang."""
    if given is not None:
        return _checked(given, "--python")
    if named := os.environ.get(VARIABLE):
        return _checked(named, VARIABLE)
    try:
        return Installation(python=Path(sys.executable), version=metadata.version("sglang"))
    except metadata.PackageNotFoundError:
        raise UsageError(
            "found no SGLang: make it an environment with `retool serve --install DIR`, name the interpreter of "
            f"one that you have with --python PATH or {VARIABLE}, or install the [sglang] extra here: "
            "pip install 'retool-env[sglang]'"
        ) from None


def _checked(path: str, source: str) -> Installation:
    python = Path(path).expanduser()
    if not (python.is_file() and os.access(python, os.X_OK)):
        raise UsageError(f"{source} {path!r} is no program that can be run; give the path of a Python interpreter")
    version = _ask(python, "sglang")
    if version is None:
        raise UsageError(f"{source} {path!r} has no SGLang; make an environment with `retool serve --install DIR`")
    # Not resolved: the link is what makes an interpreter the one of its environment.
    return Installation(python=python.absolute(), version=version)


def _ask(python: Path, distribution: str) -> str | None:
    done = subprocess.run([python, "-c", _ASK, distribution], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
