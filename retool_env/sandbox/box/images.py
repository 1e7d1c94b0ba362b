"""What a zygote imports in advance, so that its children find it in memory.

An image only decides how fast an import is: every module of the interpreter can be imported in every image. A module
that is not installed is passed over. Standard library only, because the zygote loads this file by path.

Left out: choosing an image for a program.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from typing import Final, Literal

__all__ = ["Image", "freeze", "warm_up"]

Image = Literal["light", "science"]

_LIGHT: Final = (
    "bisect", "cmath", "collections", "datetime", "decimal", "fractions", "functools", "heapq", "itertools", "math",
    "re", "statistics", "string",
)  # fmt: skip
# numpy and scipy load these parts at first use; importing the package alone would leave that to every child.
_SCIENCE: Final = (
    "numpy", "numpy.fft", "numpy.linalg", "numpy.polynomial", "numpy.random", "sympy", "scipy", "scipy.integrate",
    "scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.special", "scipy.stats",
)  # fmt: skip
_MODULES: Final[dict[str, tuple[str, ...]]] = {"light": _LIGHT, "science": _LIGHT + _SCIENCE}


def _rehearse_sympy() -> None:
    """It imports a good part of itself, and fills its caches, at first use: 0.1 s that every child would pay."""
    sympy = sys.modules.get("sympy")
    if sympy is not None:
        sympy.solve("x**2 - 2*x - 3")
        sympy.simplify("x**2 - 2*x - 3")


def freeze() -> None:
    """Keep what there is out of the collector's way, which would touch and so copy it in every child."""
    gc.collect()
    gc.freeze()
    gc.disable()


def warm_up(image: str) -> None:
    """Import everything."""
    for name in _MODULES[image]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _rehearse_sympy()
    freeze()
