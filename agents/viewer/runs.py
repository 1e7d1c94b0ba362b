"""What the viewer reads of a run: its trajectories, its metrics and its tokenizer.

A file of trajectories is enough. Metrics and configuration are looked for in its folder and, for ``eval/NAME.jsonl``,
in the folder above. Without a tokenizer the page shows ids where it would show the text of tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from agents.run_folder import stored_config
from agents.stats import run_file
from retool_env.errors import UsageError
from retool_env.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Curve", "ViewedRun", "open_run", "read_curves"]

Curve = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class ViewedRun:
    """A run to be shown.

    Attributes:
        name: for headings.
        path: as it was given; of an evaluation's folder, the episodes that failed for good are shown too.
        file: the trajectories.
        metrics: ``metrics.jsonl``, or ``None``.
        config: the resolved configuration as text; ``""`` without one.
        tokenizer: ``None`` when it cannot be had, ``why_no_tokenizer`` says why.
    """

    name: str
    path: Path
    file: Path
    metrics: Path | None
    config: str
    tokenizer: Tokenizer | None
    why_no_tokenizer: str = ""


def open_run(path: Path, tokenizer: str | None = None) -> ViewedRun:
    """Find the parts of a run.

    Args:
        path: run folder or trajectory file.
        tokenizer: ``"bytes"`` or a folder; by default that of the run's checkpoints, else the one that the
            configuration names.

    Raises:
        UsageError: there are no trajectories, or ``tokenizer`` is given and is none.
    """
    file = run_file(path)
    if not file.is_file():
        raise UsageError(f"{file}: no such trajectory file; give a run folder or a file of trajectories")
    folders = [file.parent, *([file.parent.parent] if file.parent.name == "eval" else [])]
    metrics = next((f for folder in folders if (f := folder / "metrics.jsonl").is_file()), None)
    config = next((config for folder in folders if (config := stored_config(folder)) is not None), {})
    found, why = (load_tokenizer(tokenizer), "") if tokenizer else _own_tokenizer(folders, config)
    name = path.name if path.is_dir() else f"{file.resolve().parent.name}/{file.name}"
    text = yaml.safe_dump(config, sort_keys=False) if config else ""
    return ViewedRun(
        name=name or str(path),
        path=path,
        file=file,
        metrics=metrics,
        config=text,
        tokenizer=found,
        why_no_tokenizer=why,
    )


def read_curves(path: Path) -> dict[str, Curve]:
    """Every number of a ``metrics.jsonl`` by name, against the step; of a step logged twice the later row counts.

    A line that is not a JSON object with a step (torn by a kill) is passed over.
    """
    points: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        row = _metrics_row(line)
        for key, value in row.items():
            points.setdefault(key, {})[int(row["step"])] = value
    points.pop("step", None)
    return {key: tuple(sorted(values.items())) for key, values in points.items()}


def _metrics_row(line: str) -> Mapping[str, float]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return {}
    return {key: float(value) for key, value in row.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _own_tokenizer(folders: Sequence[Path], config: Mapping[str, object]) -> tuple[Tokenizer | None, str]:
    """The tokenizer of a checkpoint of the run, else of the model that it was given, else the environment's."""
    saved = [found.parent for folder in folders for found in sorted(folder.glob("checkpoints/*/tokenizer.json"))]
    named = [("model", "path"), ("agent", "path"), ("env", "tokenizer")]
    names = [*map(str, saved[:1]), *(str(name) for place in named if (name := _entry(config, *place)))]
    if not names:
        return None, "no configuration names a tokenizer; give --tokenizer DIR"
    try:
        return load_tokenizer(names[0]), ""
    except UsageError as error:
        return None, f"{error}; give --tokenizer DIR"


def _entry(values: Mapping[str, object], section: str, key: str) -> object:
    found = values.get(section)
    return found.get(key) if isinstance(found, dict) else None
