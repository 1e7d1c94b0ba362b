"""Numbers as Prometheus text.

Any frozen dataclass or mapping will do: a number becomes one sample, a mapping of names to numbers one sample per
name with the label ``status``. A name that ends in ``_total`` is a counter, every other one a gauge, and so is each
mapping, whose counts only grow, a counter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

__all__ = ["render"]


def render(prefix: str, metrics: object) -> str:
    """The text for ``metrics``, each name with ``prefix`` in front; values that are no numbers are left out."""
    return "".join(f"{line}\n" for name, value in _fields(metrics) for line in _lines(f"{prefix}_{name}", value))


def _fields(metrics: object) -> Iterator[tuple[str, object]]:
    if isinstance(metrics, Mapping):
        yield from metrics.items()
    elif dataclasses.is_dataclass(metrics):
        for field in dataclasses.fields(metrics):
            yield field.name, getattr(metrics, field.name)


def _lines(name: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        name = name.removesuffix("_total") + "_total"
        yield f"# TYPE {name} counter"
        for label, count in value.items():
            escaped = str(label).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
            yield f'{name}{{status="{escaped}"}} {count}'
    elif isinstance(value, int | float):
        yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        yield f"{name} {value + 0}"
