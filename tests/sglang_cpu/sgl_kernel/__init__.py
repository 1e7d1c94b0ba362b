"""Stands in for SGLang's compiled kernels on a CPU that has none: every name resolves, every call fails loudly.

SGLang imports names from ``sgl_kernel`` that the model of the tests never calls. This must never be on the path of a
server on a GPU: it hides the real package.
"""

from collections.abc import Callable
from typing import NoReturn


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_arguments: object, **_named: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} is not available on this CPU")

    return missing
