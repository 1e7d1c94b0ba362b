"""A user's own Python: ``path/to/file.py`` or ``package.module``, with ``:name`` for one object of it.

A file is executed once in a process and is known to :mod:`sys.modules` under a name of its own, so that what it
defines can be pickled. Every mistake is one line that names the file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType

from retool_env.errors import UsageError

__all__ = ["load_module", "split_source"]

_lock = threading.Lock()


def split_source(source: str) -> tuple[str, str]:
    """``("file.py", "name")`` of ``"file.py:name"``; the name is ``""`` when there is none.

    >>> split_source("rewards/mine.py:score"), split_source("package.module")
    (('rewards/mine.py', 'score'), ('package.module', ''))
    """
    location, colon, name = source.rpartition(":")
    return (location, name) if colon and name.isidentifier() else (source, "")


def load_module(location: str, *, what: str) -> ModuleType:
    """The module at ``location``.

    Args:
        what: what is looked for, for the messages (``tools``).

    Raises:
        UsageError: there is no such file or module, or it fails while it is loaded.
    """
    try:
        return _from_file(Path(location), what) if location.endswith(".py") else importlib.import_module(location)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{what}={location!r}: no module {error.name!r}; give a .py file or an importable name"
        ) from error
    except Exception as error:
        raise UsageError(f"{what}={location!r} cannot be loaded ({type(error).__name__}: {error})") from error


def _from_file(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{what}={str(path)!r}: no such file; give the path of a Python file")
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()
    name = f"retool_user_{path.stem}_{digest}"
    with _lock:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec and spec.loader, "a .py file always has a loader"
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
