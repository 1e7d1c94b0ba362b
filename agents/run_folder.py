"""A run folder: everything a run leaves behind, as plain files that can be read while it runs.

======================  ==================================================================
config.yaml             the resolved configuration
metrics.jsonl           one JSON object per line: ``phase``, ``step`` and numbers
trajectories.jsonl      episodes (``retool_env.trajectory``)
eval/NAME.jsonl         episodes of an evaluation
tensorboard/            the same numbers for TensorBoard (written by trainers)
checkpoints/NAME/       model and tokenizer in Hugging Face format
======================  ==================================================================

An evaluation keeps its configuration in ``run.json`` (:mod:`agents.evaluation.folder`); :func:`stored_config` reads
either.
Time fields (:func:`is_time`) differ between runs of one seed, everything else does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from retool_env.config import Config
from retool_env.errors import UsageError
from retool_env.files import atomic, lock_folder

__all__ = ["RunFolder", "is_time", "read_metrics", "stored_config"]

Value = float | int | str | None
NOT_STORED = {"resume", "cluster", "dry_run"}
MAY_CHANGE = ("out", "logger")  # where a run lies is not what it is, nor is where its numbers are shown


class RunFolder:
    """A folder that this run writes.

    Args:
        path: made if it does not exist.
        config: written to ``config.yaml``, without what only says how to start (``resume``).
        resume: go on in a folder that holds a run with the same configuration; only what it shows (``logger``) may
            differ. Without it, a folder that holds a run is refused: nothing that was computed is ever overwritten.

    Nobody else may write there as long as this object is there.

    Raises:
        UsageError: the folder holds a run, or a run with another configuration; another process writes it.
    """

    def __init__(self, path: str | Path, config: Config, *, resume: bool = False) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"out={str(path)!r} cannot be made a run folder ({error.strerror})") from error
        if (self.path / "run.json").is_file():
            raise UsageError(f"out={str(path)!r} holds an evaluation; give another out=...")
        values, usual = (one.model_dump(mode="json", exclude=NOT_STORED) for one in (config, type(config)()))
        stored = self.path / "config.yaml"
        if stored.is_file():
            if not resume:
                raise UsageError(f"out={str(path)!r} holds a run already; give another out=..., or delete the folder")
            changed = _changed(_over(usual, yaml.safe_load(stored.read_text(encoding="utf-8"))), values)
            if changed := {name: both for name, both in changed.items() if not set(name.split(".")) & set(MAY_CHANGE)}:
                there, here = (", ".join(f"{n}={_shown(v[k])}" for n, v in changed.items()) for k in range(2))
                raise UsageError(
                    f"out={str(path)!r} holds a run with another configuration ({', '.join(changed)} differ): it has "
                    f"{there}, and this is {here}; go on with what it has (--resume {path}), give another out=..., or "
                    "delete the folder"
                )
        self._lock = lock_folder(self.path)
        with atomic(stored) as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories.jsonl"

    def eval_file(self, name: str) -> Path:
        return self.path / "eval" / f"{name}.jsonl"

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / name

    def log(self, phase: str, step: int, values: Mapping[str, Value]) -> None:
        """Append one row of metrics; NaN becomes ``null``."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": phase, "step": step, **clean}) + "\n")

    def keep_metrics(self, keep: Callable[[str, int], bool]) -> None:
        """Drop rows of ``metrics.jsonl`` that a resumed run will write again.

        Args:
            keep: from phase and step to whether the row stays.
        """
        path = self.path / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if keep(str(row["phase"]), int(str(row["step"])))]
        with atomic(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def is_time(key: str) -> bool:
    """Whether a metric measures time."""
    return key.startswith(("timing_s/", "timing_per_token_ms/", "perf/"))


def stored_config(folder: Path) -> dict[str, Any] | None:
    """The configuration of the training or evaluation in the folder; ``None`` when there is none.

    Raises:
        UsageError: its file holds something else.
    """
    for name, load in (("config.yaml", yaml.safe_load), ("run.json", json.loads)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UsageError(f"{path}: no configuration ({str(error).splitlines()[0]})") from error
        values = values.get("config") if name == "run.json" and isinstance(values, dict) else values
        return values if isinstance(values, dict) else {}
    return None


def read_metrics(path: Path) -> list[dict[str, Value]]:
    """All complete rows of a ``metrics.jsonl``."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _changed(old: object, new: object, prefix: str = "") -> dict[str, tuple[object, object]]:
    """What differs, by dotted name."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[object, object]] = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= _changed(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        return found
    return {} if old == new else {prefix: (old, new)}


def _over(usual: object, stored: object) -> object:
    """What was stored, with its usual value for a key that there was not when it was."""
    if not (isinstance(usual, dict) and isinstance(stored, dict)):
        return stored
    return {**usual, **{key: _over(usual.get(key), value) for key, value in stored.items()}}


def _shown(value: object) -> str:
    """As it would be written on the command line."""
    text = json.dumps(value)
    return text if not isinstance(value, str) else value
